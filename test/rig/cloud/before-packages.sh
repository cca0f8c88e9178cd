#!/bin/sh
# Runs outside the new root ($1), as its root, before its packages are installed: an initramfs for any machine, as cloud images have it.
set -eu
case $RIG_FORM in stream | fedora) ;; *) exit 0 ;; esac
mkdir -p "$1/etc/dracut.conf.d"
cat >"$1/etc/dracut.conf.d/rig.conf" <<'CONF'
hostonly="no"
compress="gzip -1"
add_drivers+=" virtio_pci virtio_blk virtio_net xfs btrfs ext4 "
CONF
