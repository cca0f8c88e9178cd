"""Hands over what build.sh left in /var/lib/dkms2bin/result, as frames on stdout. Run as root.

A frame is an ASCII line "DKMS2BIN1 KIND INDEX SIZE\\n" and then SIZE raw bytes. KIND is ko, debug, log or meta; INDEX counts
from 0 over all frames. meta is JSON and the last but one:
  {"modules": [{"name", "version", "verdict", "reason", "dependency": bool, "ko": [{"dest": "x.ko", "blob": INDEX}],
                "debug": [{"file": "x.ko.debug", "blob": INDEX}], "debugTooLarge": bool, "log": INDEX|null,
                "buildDepends": [NAME]}]}
The last line is "DKMS2BIN1 end SHA256 0\\n", the digest of all blobs' bytes in order. No end frame: not all arrived.
"""
import hashlib
import json
import os
import sys

root = "/var/lib/dkms2bin/result"
out = sys.stdout.buffer
count = 0
digest = hashlib.sha256()


def lines(path):
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read().splitlines()
    except FileNotFoundError:
        return []


def send(kind, data):
    global count
    out.write(b"DKMS2BIN1 %s %d %d\n" % (kind.encode(), count, len(data)))
    out.write(data)
    digest.update(data)
    count += 1
    return count - 1


def send_file(kind, path):
    global count
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        out.write(b"DKMS2BIN1 %s %d %d\n" % (kind.encode(), count, size))
        left = size
        while left > 0:
            data = file.read(min(left, 1 << 20))
            if not data:
                sys.exit("%s became shorter" % path)
            out.write(data)
            digest.update(data)
            left -= len(data)
    count += 1
    return count - 1


def send_log(path):
    """The beginning and the end of a log that is too long for the host, with a mark between them."""
    size = os.path.getsize(path)
    if size <= MAX_LOG:
        return send_file("log", path)
    half = MAX_LOG // 2
    with open(path, "rb") as file:
        first = file.read(half)
        file.seek(-half, os.SEEK_END)
        last = file.read(half)
    cut = size - len(first) - len(last)
    mark = "\n[dkms2bin: %d of the %d bytes of this log are left out here; %s in a VM that is kept (--debug) has all]\n" % (cut, size, path)
    return send("log", first + mark.encode("utf-8", "replace") + last)


# Of one log; of a file of debug symbols the host takes 128 MiB, and 512 MiB of all files: without symbols a module is still a module.
MAX_LOG = 16 << 20
MAX_DEBUG, debug_left = 128 << 20, 256 << 20

if not os.path.exists(root + "/source"):
    sys.exit("no build result in this guest")
targets = lines(root + "/targets")
modules = []
folder = root + "/modules"
for entry in sorted(os.listdir(folder)) if os.path.isdir(folder) else []:
    here = os.path.join(folder, entry)
    name, version = (lines(here + "/id") + ["", ""])[:2]
    verdict, reason = (lines(here + "/verdict") + ["error", ""])[:2] if os.path.exists(here + "/verdict") else ("error", "")
    ko = []
    if verdict == "built":
        for file in sorted(lines(here + "/ko-files"), key=os.path.basename):
            ko.append({"dest": os.path.basename(file), "blob": send_file("ko", file)})
    debug, too_large = [], False
    for file in sorted(os.listdir(here + "/debug")) if verdict == "built" and os.path.isdir(here + "/debug") else []:
        size = os.path.getsize(os.path.join(here, "debug", file))
        if size <= min(MAX_DEBUG, debug_left):
            debug_left -= size
            # The name is the module's path with @ for each slash.
            debug.append({"file": file.split("@")[-1], "blob": send_file("debug", os.path.join(here, "debug", file))})
        else:
            too_large = True
    log = send_log(lines(here + "/log")[0]) if lines(here + "/log") else None
    modules.append({"name": name, "version": version, "verdict": verdict, "reason": reason,
                    "dependency": name + "/" + version not in targets, "ko": ko, "debug": debug,
                    "debugTooLarge": too_large, "log": log,
                    "buildDepends": lines(here + "/depends")})
# The package's own order; what was built only as a dependency comes last.
modules.sort(key=lambda m: (m["dependency"], targets.index(m["name"] + "/" + m["version"]) if not m["dependency"] else 0))

send("meta", json.dumps({"modules": modules}, ensure_ascii=False).encode("utf-8", "replace"))
out.write(b"DKMS2BIN1 end %s 0\n" % digest.hexdigest().encode())
out.flush()
