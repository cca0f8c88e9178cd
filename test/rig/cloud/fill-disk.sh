#!/bin/bash
# PID 1 of a VM whose root is the image's root folder and whose second disk, already partitioned, is to become the image. Says
# `RIG DONE` on the console.
set -eu
export PATH=/usr/sbin:/usr/bin:/sbin:/bin
trap 'echo RIG FAILED at line $LINENO; sync; echo o >/proc/sysrq-trigger; sleep 60' ERR EXIT
declare -A rig=()
for word in $(</proc/cmdline); do case $word in rig.*) rig[${word%%=*}]=${word#*=} ;; esac; done
new=/mnt
case ${rig[rig.form]} in
  stream)
    modprobe xfs
    mkfs.xfs -q -f -L root -m "uuid=${rig[rig.root]}" /dev/vdb3
    mkfs.xfs -q -f -L boot -m "uuid=${rig[rig.boot]}" /dev/vdb2
    mount /dev/vdb3 "$new"
    mkdir "$new/boot"
    mount /dev/vdb2 "$new/boot"
    ;;
  fedora)
    modprobe btrfs
    mkfs.btrfs -q -f -L fedora -U "${rig[rig.root]}" /dev/vdb3
    mount -o compress=zstd:1 /dev/vdb3 "$new"
    for each in root home var boot; do btrfs subvolume create "$new/$each" >/dev/null; done
    umount "$new"
    mount -o compress=zstd:1,subvol=root /dev/vdb3 "$new"
    for each in home var boot; do
      mkdir "$new/$each"
      mount -o "compress=zstd:1,subvol=$each" /dev/vdb3 "$new/$each"
    done
    ;;
esac
cp -ax /. "$new"
rm "$new"/usr/local/sbin/{fill-disk,label} "$new/usr/local/share/labels"
/usr/local/sbin/label apply /usr/local/share/labels "$new"
ls -Zd "$new/etc" "$new/var" "$new/boot"
df -k "$new"
umount -R "$new"
trap - ERR EXIT
sync
echo RIG DONE
sleep 1
echo o >/proc/sysrq-trigger
sleep 60
