#!/usr/bin/python3
"""Writes grub for BIOS into a disk, as grub-bios-setup does.

usage: grub-bios.py DISK BOOT CORE FIRST       FIRST: where the BIOS boot partition begins, in sectors

boot.img knows the first sector of core.img, whose first sector knows where the rest is.
"""
import struct
import sys

disk, boot_path, core_path, first = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])
boot = bytearray(open(boot_path, "rb").read())
core = bytearray(open(core_path, "rb").read())
core += bytes(-len(core) % 512)
with open(disk, "r+b") as out:
    old = out.read(512)
    struct.pack_into("<Q", boot, 0x5C, first)
    boot[440:512] = old[440:512]  # The protective partition table stays.
    # Disk errors are no reason to stop: this jump is taken out on all but floppies.
    boot[0x66:0x68] = b"\x90\x90"
    struct.pack_into("<QHH", core, 512 - 12, first + 1, len(core) // 512 - 1, 0x820)
    out.seek(0)
    out.write(boot)
    out.seek(first * 512)
    out.write(core)
