#!/usr/bin/python3
"""SELinux labels of a root folder, in two steps: which path gets which is slow to find out in an emulated VM, and to write them takes a
mounted file system.

usage: label.py list FILE         in the root folder, natively: FILE gets lines LABEL, a blank, PATH
       label.py apply FILE ROOT   as root, where the file system is mounted at ROOT
"""
import os
import sys


def paths():
    yield "/"
    for folder, folders, files in os.walk("/"):
        if folder == "/":
            folders[:] = [each for each in folders if each not in ("proc", "sys", "dev", "run", "tmp")]
            yield from ("/proc", "/sys", "/dev", "/run", "/tmp")
        yield from (os.path.join(folder, each) for each in folders + files)


if sys.argv[1] == "list":
    import selinux

    with open(sys.argv[2], "w") as out:
        for path in paths():
            try:
                label = selinux.matchpathcon(path, os.lstat(path).st_mode)[1]
            except OSError:
                continue  # Marked <<none>>: it keeps its parent's.
            out.write("%s %s\n" % (label, path))
else:
    for line in open(sys.argv[2]):
        label, path = line.rstrip("\n").split(" ", 1)
        try:
            os.setxattr(sys.argv[3] + path, "security.selinux", label.encode() + b"\0", follow_symlinks=False)
        except FileNotFoundError:
            pass  # Of the time of the image's making.
