#!/bin/sh
# Runs outside the new root ($1), as its root: what Debian's image configuration does once the packages are there.
set -eu
root=$1
RIG_KERNEL=$(chroot "$root" dpkg-query -W -f '${Package}\n' 'linux-image-[0-9]*' | head -n 1)
RIG_KERNEL=${RIG_KERNEL#linux-image-}

https() { echo "$1" | sed 's,^http:,https:,'; }
mkdir -p "$root/etc/apt/mirrors"
https "$RIG_MIRROR" >"$root/etc/apt/mirrors/debian.list"
https "$RIG_SECURITY" >"$root/etc/apt/mirrors/debian-security.list"
rm -f "$root/etc/apt/sources.list" "$root"/etc/apt/sources.list.d/*
case $RIG_SUITE in
  sid) suites=sid ;;
  forky) suites='forky forky-updates' ;;
  *) suites="$RIG_SUITE $RIG_SUITE-updates $RIG_SUITE-backports" ;;
esac
{
  printf 'Types: deb deb-src\nURIs: mirror+file:///etc/apt/mirrors/debian.list\nSuites: %s\nComponents: main\n' "$suites"
  [ "$RIG_SUITE" = sid ] ||
    printf '\nTypes: deb deb-src\nURIs: mirror+file:///etc/apt/mirrors/debian-security.list\nSuites: %s-security\nComponents: main\n' "$RIG_SUITE"
} >"$root/etc/apt/sources.list.d/debian.sources"
printf 'APT::Periodic::Update-Package-Lists "1";\nAPT::Periodic::Unattended-Upgrade "1";\n' >"$root/etc/apt/apt.conf.d/20auto-upgrades"
[ -z "$RIG_STALE" ] || echo 'Acquire::Check-Valid-Until "false";' >"$root/etc/apt/apt.conf.d/99stale-mirror"

mkdir -p "$root/etc/cloud/cloud.cfg.d"
cat >"$root/etc/cloud/cloud.cfg.d/01_debian_cloud.cfg" <<'CFG'
apt:
  generate_mirrorlists: true
system_info:
  default_user:
    name: debian
    sudo: ALL=(ALL) NOPASSWD:ALL
    shell: /bin/bash
    lock_passwd: true
    gecos: Debian
    groups: [adm, audio, cdrom, dialout, dip, floppy, plugdev, sudo, video]
CFG

cat >"$root/etc/fstab" <<TAB
PARTUUID=$RIG_ROOT_PART / ext4 rw,discard,errors=remount-ro,x-systemd.growfs 0 1
PARTUUID=$RIG_ESP_PART /boot/efi vfat defaults 0 0
TAB
mkdir -p "$root/boot/efi"
cat >"$root/etc/default/grub" <<'CFG'
GRUB_DEFAULT=0
GRUB_TIMEOUT=0
GRUB_DISTRIBUTOR="Debian"
GRUB_CMDLINE_LINUX_DEFAULT=""
GRUB_CMDLINE_LINUX="console=tty0 console=ttyS0,115200 earlyprintk=ttyS0,115200 consoleblank=0"
GRUB_TERMINAL="console serial"
GRUB_SERIAL_COMMAND="serial --speed=115200"
CFG
mkdir -p "$root/boot/grub"
cat >"$root/boot/grub/grub.cfg" <<CFG
set default=0
set timeout=0
serial --speed=115200
terminal_input console serial
terminal_output console serial
insmod part_gpt
insmod ext2
search --no-floppy --fs-uuid --set=root $RIG_ROOT_UUID
menuentry 'Debian GNU/Linux' {
  linux /boot/vmlinuz-$RIG_KERNEL root=PARTUUID=$RIG_ROOT_PART ro console=tty0 console=ttyS0,115200 earlyprintk=ttyS0,115200 consoleblank=0
  initrd /boot/initrd.img-$RIG_KERNEL
}
CFG

# What the live installation of grub copies.
cp -r "$root/usr/lib/grub/i386-pc" "$root/boot/grub/i386-pc"
cp "$root/usr/lib/grub/i386-pc/boot.img" "$RIG_WORK/boot.img"
chroot "$root" grub-mkimage -O i386-pc -p '(hd0,gpt1)/boot/grub' -o /tmp/core.img biosdisk part_gpt ext2 search_fs_uuid
mv "$root/tmp/core.img" "$RIG_WORK/core.img"
cp "$root/usr/lib/shim/shimx64.efi.signed" "$RIG_WORK/shim"
cp "$root/usr/lib/grub/x86_64-efi-signed/grubx64.efi.signed" "$RIG_WORK/grub-efi"
