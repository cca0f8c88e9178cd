#!/bin/sh
# Runs outside the new root ($1), as its root: the configuration that the distro's image has, as far as Debian's packages read it.
set -eu
root=$1
kernel=$(chroot "$root" dpkg-query -W -f '${Package}\n' 'linux-image-[0-9]*' | head -n 1)
kernel=${kernel#linux-image-}
mkdir -p "$root/boot/grub" "$root/etc/cloud/cloud.cfg.d"
console='console=tty1 console=ttyS0,115200n8'

# cloud_user NAME GROUPS
cloud_user() {
  printf 'system_info:\n  default_user:\n    name: %s\n    lock_passwd: true\n    gecos: Cloud User\n    groups: [%s]\n' "$1" "$2"
  printf '    sudo: ["ALL=(ALL) NOPASSWD:ALL"]\n    shell: /bin/bash\n'
}
# grub_menu FILE SYSTEM'S-MODULE PATH ARGUMENTS: where grub finds kernels, and what it tells them
grub_menu() {
  cat >"$root/boot/grub/grub.cfg" <<CFG
set default=0
set timeout=0
serial --speed=115200
terminal_input console serial
terminal_output console serial
insmod part_gpt
insmod $1
search --no-floppy --fs-uuid --set=root $2
menuentry 'Linux' {
  linux $3/vmlinuz-$kernel $4 $console
  initrd $3/initrd.img-$kernel
}
CFG
}
# grub_bios FILE SYSTEM'S-MODULE PREFIX
grub_bios() {
  cp -r "$root/usr/lib/grub/i386-pc" "$root/boot/grub/i386-pc"
  cp "$root/usr/lib/grub/i386-pc/boot.img" "$RIG_WORK/boot.img"
  chroot "$root" grub-mkimage -O i386-pc -p "$2" -o /tmp/core.img biosdisk part_gpt "$1" search_fs_uuid
  mv "$root/tmp/core.img" "$RIG_WORK/core.img"
}
# grub_uefi UUID FOLDER: what grub on the ESP reads first
grub_uefi() {
  cp "$root/usr/lib/shim/shimx64.efi.signed" "$RIG_WORK/shim"
  cp "$root/usr/lib/grub/x86_64-efi-signed/grubx64.efi.signed" "$RIG_WORK/grub-efi"
  printf 'search.fs_uuid %s root\nset prefix=($root)%s\nconfigfile $prefix/grub.cfg\n' "$1" "$2" >"$RIG_WORK/early.cfg"
}
# repository ID ENABLED
repository() { printf '[%s]\nname=%s\nbaseurl=%s/%s\nenabled=%s\ngpgcheck=0\n\n' "$1" "$1" "$RIG_URL" "$1" "$2"; }

# What all of the Red Hat family have.
red_hat() {
  # Debian's policy, enforced, does not let cloud-init's generator write to /run: nothing of the seed would be read.
  printf 'SELINUX=permissive\nSELINUXTYPE=default\n' >"$root/etc/selinux/config"
  printf 'Defaults !visiblepw\nDefaults always_set_home\nDefaults secure_path = /sbin:/bin:/usr/sbin:/usr/bin\n' >"$root/etc/sudoers.d/00-distro"
  chmod 440 "$root/etc/sudoers.d/00-distro"
  mkdir -p "$root/etc/yum.repos.d"
  install -m 755 "$RIG_WORK/fill-disk.sh" "$root/usr/local/sbin/fill-disk"
  cat >"$root/etc/cloud/cloud.cfg.d/05_distro.cfg" <<'CFG'
disable_root: true
ssh_pwauth: false
resize_rootfs_tmp: /dev
ssh_deletekeys: true
ssh_genkeytypes: [rsa, ecdsa, ed25519]
datasource_list: [ConfigDrive, OpenStack, NoCloud, None]
CFG
  cp "$root/boot/vmlinuz-$kernel" "$RIG_WORK/vmlinuz"
  cp "$root/boot/initrd.img-$kernel" "$RIG_WORK/initrd"
  chmod 644 "$RIG_WORK/initrd"
}

case $RIG_FORM in
  ubuntu)
    rm -f "$root/etc/apt/sources.list" "$root"/etc/apt/sources.list.d/*
    for suites in 'noble noble-updates' noble-security; do
      printf 'Types: deb\nURIs: %s/ubuntu/\nSuites: %s\nComponents: main universe\n' "$RIG_URL" "$suites"
      printf 'Signed-By: /etc/apt/trusted.gpg.d/ubuntu-keyring.gpg\n\n'
    done >"$root/etc/apt/sources.list.d/ubuntu.sources"
    printf 'APT::Periodic::Update-Package-Lists "1";\nAPT::Periodic::Unattended-Upgrade "1";\n' >"$root/etc/apt/apt.conf.d/20auto-upgrades"
    cloud_user ubuntu 'adm, cdrom, dip, sudo' >"$root/etc/cloud/cloud.cfg.d/05_distro.cfg"
    printf 'datasource_list: [ NoCloud, ConfigDrive, OpenStack, Ec2, None ]\n' >"$root/etc/cloud/cloud.cfg.d/90_dpkg.cfg"
    printf '%s\n' 'LABEL=cloudimg-rootfs / ext4 discard,commit=30,errors=remount-ro 0 1' 'LABEL=BOOT /boot ext4 defaults 0 2' \
      'LABEL=UEFI /boot/efi vfat umask=0077 0 1' >"$root/etc/fstab"
    mkdir -p "$root/boot/efi"
    grub_menu ext2 "$RIG_BOOT_UUID" '' "root=LABEL=cloudimg-rootfs ro"
    grub_bios ext2 '(hd0,gpt16)/grub'
    grub_uefi "$RIG_BOOT_UUID" /grub
    ;;
  stream)
    red_hat
    cloud_user cloud-user 'adm, systemd-journal' >>"$root/etc/cloud/cloud.cfg.d/05_distro.cfg"
    { repository base 1; repository crb 0; } >"$root/etc/yum.repos.d/centos.repo"
    repository extras 1 >"$root/etc/yum.repos.d/centos-addons.repo"
    printf '%s\n' "UUID=$RIG_ROOT_UUID / xfs defaults 0 0" "UUID=$RIG_BOOT_UUID /boot xfs defaults 0 0" >"$root/etc/fstab"
    grub_menu xfs "$RIG_BOOT_UUID" '' "root=UUID=$RIG_ROOT_UUID ro security=selinux"
    grub_bios xfs '(hd0,gpt2)/grub'
    ;;
  fedora)
    red_hat
    cloud_user fedora 'wheel, adm, systemd-journal' >>"$root/etc/cloud/cloud.cfg.d/05_distro.cfg"
    chroot "$root" groupadd -f wheel
    for each in base crb epel; do repository "$each" 1; done >"$root/etc/yum.repos.d/fedora.repo"
    for each in / /home /var /boot; do
      name=${each#/}
      echo "UUID=$RIG_ROOT_UUID $each btrfs compress=zstd:1,defaults,subvol=${name:-root} 0 0"
    done >"$root/etc/fstab"
    echo 'LABEL=UEFI /boot/efi vfat defaults,umask=0077,shortname=winnt 0 0' >>"$root/etc/fstab"
    mkdir -p "$root/boot/efi"
    grub_menu btrfs "$RIG_ROOT_UUID" /boot "root=UUID=$RIG_ROOT_UUID rootflags=subvol=root ro security=selinux"
    grub_uefi "$RIG_ROOT_UUID" /boot/grub
    ;;
esac
