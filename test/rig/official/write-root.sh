#!/bin/sh
# The root file system as an image file, written inside the namespace, where owners and modes are those of the root folder.
# With RIG_BOOT_MIB, what is in /boot goes to a file system of its own, boot.ext4.
set -eu
# Without what is mounted in it for the time of its making.
mkdir "$RIG_WORK/root"
mount --bind "$1" "$RIG_WORK/root"
# mmdebstrap still needs what it keeps in /tmp.
for each in tmp run; do mount -t tmpfs -o mode=1777 tmpfs "$RIG_WORK/root/$each"; done
if [ -n "${RIG_BOOT_MIB:-}" ]; then
  truncate -s "${RIG_BOOT_MIB}M" "$RIG_WORK/boot.ext4"
  mke2fs -q -t ext4 -L BOOT -U "$RIG_BOOT_UUID" -d "$RIG_WORK/root/boot" "$RIG_WORK/boot.ext4"
  mount -t tmpfs -o mode=755 tmpfs "$RIG_WORK/root/boot"
fi
truncate -s "${RIG_ROOT_MIB}M" "$RIG_WORK/root.ext4"
mke2fs -q -t ext4 -U "$RIG_ROOT_UUID" -L "${RIG_ROOT_LABEL:-}" -d "$RIG_WORK/root" "$RIG_WORK/root.ext4"
umount -R "$RIG_WORK/root"
rmdir "$RIG_WORK/root"
