"""Gives a kernel another release, as `uname -r` prints it: it is compiled into the image and stands in every module, so it takes
one of the same length.

usage: rename-kernel.py TREE OLD NEW

TREE has boot/vmlinuz-OLD and lib/modules/OLD. The image becomes the uncompressed kernel that was in it, which QEMU boots by its
PVH entry; the modules lose their signature, which a changed one would break. Paths keep their names.
"""
import glob
import lzma
import multiprocessing
import re
import struct
import subprocess
import sys

TREE, OLD, NEW = sys.argv[1], sys.argv[2].encode(), sys.argv[3].encode()
SIGNED = b"~Module signature appended~\n"


def payload(image):
    """The kernel in an Image of arm64, which is one, or in a bzImage: offset and length stand in its header; the last four bytes are its size."""
    if image[56:60] == b"ARMd":
        return image
    setup = ((image[0x1F1] or 4) + 1) * 512
    offset, length = struct.unpack_from("<II", image, 0x248)
    packed = image[setup + offset:setup + offset + length - 4]
    unpack = {b"\x28\xb5": ["zstd", "-dc"], b"\xfd7": ["xz", "-dc"]}[packed[:2]]
    return subprocess.run(unpack, input=packed, stdout=subprocess.PIPE, check=True).stdout


def rename_image(path):
    with open(path, "rb") as file:
        kernel = payload(file.read())
    if not re.search(b"Linux version " + re.escape(OLD) + b" ", kernel):
        sys.exit("%s is no kernel of release %s" % (path, OLD.decode()))
    with open(path, "wb") as file:
        file.write(kernel.replace(OLD, NEW))


def rename_module(path):
    with lzma.open(path) as file:
        module = file.read()
    if module.endswith(SIGNED):
        length = struct.unpack(">I", module[-len(SIGNED) - 4:-len(SIGNED)])[0]
        module = module[:-len(SIGNED) - 12 - length]
    # The kernel's own decompressor knows no other check.
    with lzma.open(path, "wb", check=lzma.CHECK_CRC32, preset=0) as file:
        file.write(module.replace(OLD, NEW))


if __name__ == "__main__":
    if len(OLD) != len(NEW):
        sys.exit("%s and %s are not of one length" % (OLD.decode(), NEW.decode()))
    rename_image("%s/boot/vmlinuz-%s" % (TREE, OLD.decode()))
    with multiprocessing.Pool() as pool:
        pool.map(rename_module, glob.glob("%s/lib/modules/*/kernel/**/*.ko.xz" % TREE, recursive=True), 32)
