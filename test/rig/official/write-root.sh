#!/bin/sh
# The root file system as an image file, written inside the namespace, where owners and modes are those of the root folder.
set -eu
# Without what is mounted in it for the time of its making.
mkdir "$RIG_WORK/root"
mount --bind "$1" "$RIG_WORK/root"
# mmdebstrap still needs what it keeps in /tmp.
for each in tmp run; do mount -t tmpfs -o mode=1777 tmpfs "$RIG_WORK/root/$each"; done
truncate -s "${RIG_ROOT_MIB}M" "$RIG_WORK/root.ext4"
mke2fs -q -t ext4 -U "$RIG_ROOT_UUID" -d "$RIG_WORK/root" "$RIG_WORK/root.ext4"
umount -R "$RIG_WORK/root"
rmdir "$RIG_WORK/root"
