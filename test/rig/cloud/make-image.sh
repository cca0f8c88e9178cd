#!/usr/bin/env bash
# Makes a cloud image in another distro's form, of Debian's packages: see README.md beside this file. Needs no root: mmdebstrap has a
# user namespace, and what takes a mount happens in a VM.
#
# Usage: make-image.sh FORM SOURCES URL FOLDER
#   FORM      ubuntu, stream or fedora
#   SOURCES   file with the apt sources that it is made of, one a line
#   URL       of the repositories that it names, https
#   FOLDER    gets image.qcow2, SHA256SUMS and packages
set -euo pipefail

form=$1 sources=$2 url=${3%/} folder=$4
here=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd -P)
official=$here/../official
PATH=$PATH:/usr/sbin:/sbin
export SOURCE_DATE_EPOCH=1577836800 MKE2FS_SKIP_PROGRESS=1

mkdir -p "$folder"
# Not in a home folder: the root of the namespace is another user there.
work=$(mktemp -d)
trap 'rm -rf -- "$work"' EXIT
chmod 777 "$work"

uuid() { cat /proc/sys/kernel/random/uuid; }
export HOME=$work RIG_WORK=$work RIG_FORM=$form RIG_URL=$url
RIG_ROOT_UUID=$(uuid) RIG_BOOT_UUID=$(uuid)
export RIG_ROOT_UUID RIG_BOOT_UUID

# Partitions, their first sectors and sizes in sectors, as the distro's own image has them; core.img begins in `bios`.
without=(linux-image-cloud-amd64 reportbug python3-reportbug python3-debianbts python3-pysimplesoap manpages vim vim-runtime vim-common
  vim-tiny tcpdump traceroute bind9-host bind9-libs apt-listchanges cloud-image-utils qemu-utils genisoimage man-db groff-base)
case $form in
  ubuntu)
    suite=noble mib=3584 bios=2048
    export RIG_ROOT_LABEL=cloudimg-rootfs RIG_BOOT_MIB=600
    boot=227328 root=$((227328 + 600 * 2048)) esp=10240 esp_sectors=217088
    with=(linux-image-virtual ubuntu-keyring) without+=(debian-archive-keyring)
    ;;
  stream | fedora)
    suite=bookworm
    with=(linux-image-cloud-amd64 dracut selinux-policy-default selinux-utils policycoreutils python3-selinux xfsprogs btrfs-progs rpm dnf createrepo-c)
    without+=(apparmor initramfs-tools initramfs-tools-core cloud-initramfs-growroot klibc-utils libklibc unattended-upgrades)
    if [ "$form" = stream ]; then
      mib=10240 bios=2048 boot=4096 esp='' root=$((4096 + 1000 * 2048))
    else
      mib=5120 bios='' boot='' esp=4096 esp_sectors=204800 root=208896
    fi
    ;;
  *)
    echo "make-image.sh: no such form: $form" >&2
    exit 2
    ;;
esac
root_sectors=$((mib * 2048 - root - 2048))
# The root folder is written to ext4 first; for the others a VM copies it on.
export RIG_ROOT_MIB=3072
# Not the UUID of the disk's root: mkfs.btrfs refuses one that it sees on another disk.
written_uuid=$(uuid)
if [ "$form" = ubuntu ]; then RIG_ROOT_MIB=$((root_sectors / 2048)) written_uuid=$RIG_ROOT_UUID; fi

mapfile -t packages < <(
  { grep -v '^#' "$official/bookworm.packages" | grep -vxF -f <(printf '%s\n' "${without[@]}"); printf '%s\n' "${with[@]}"; }
)
install -m 755 -t "$work" "$here/before-packages.sh" "$here/customize.sh" "$here/fill-disk.sh" "$here/label.py" "$here/list-labels.sh" "$official/finish-root.sh" "$official/write-root.sh"
mmdebstrap --quiet --mode=unshare --variant=required --format=null --skip=cleanup \
  --include="$(IFS=,; echo "${packages[*]}")" \
  --aptopt='Acquire::Retries "5"' --aptopt='APT::Install-Recommends "false"' --aptopt='APT::Install-Suggests "false"' \
  --dpkgopt=force-unsafe-io --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/locale/*' \
  --essential-hook="$work/before-packages.sh" \
  --customize-hook="$work/customize.sh" \
  --customize-hook="$work/finish-root.sh" \
  --customize-hook="$work/list-labels.sh" \
  --customize-hook="RIG_ROOT_UUID=$written_uuid exec '$work/write-root.sh' \"\$1\"" \
  "$suite" - - <"$sources" >&2

# --- the disk -----------------------------------------------------------------------------------------------------------
disk=$work/disk.raw
truncate -s "${mib}M" "$disk"
esp_type=C12A7328-F81F-11D2-BA4B-00A0C93EC93B bios_type=21686148-6449-6E6F-744E-656564454649 linux=0FC63DAF-8483-4772-8E79-3D69D8477DE4
{
  echo 'label: gpt'
  case $form in
    ubuntu) printf '%s\n' "14 : start=$bios, size=8192, type=$bios_type" "15 : start=$esp, size=$esp_sectors, type=$esp_type" \
      "16 : start=$boot, size=$((600 * 2048)), type=BC13C2FF-59E6-4262-A352-B275FD6F7172" "1 : start=$root, size=$root_sectors, type=$linux" ;;
    stream) printf '%s\n' "1 : start=$bios, size=2048, type=$bios_type" "2 : start=$boot, size=$((1000 * 2048)), type=$linux" \
      "3 : start=$root, size=$root_sectors, type=$linux" ;;
    fedora) printf '%s\n' "1 : start=2048, size=2048, type=$bios_type" "2 : start=$esp, size=$esp_sectors, type=$esp_type" \
      "3 : start=$root, size=$root_sectors, type=$linux" ;;
  esac
} | sfdisk --quiet "$disk"
put() { dd if="$1" of="$disk" bs=64K oflag=seek_bytes conv=notrunc,sparse seek="$2" status=none; }

if [ "$form" = ubuntu ]; then
  put "$work/root.ext4" $((root * 512))
  put "$work/boot.ext4" $((boot * 512))
else
  # As PID 1 of a VM, fill-disk.sh copies the root folder to the file systems of the new disk, and labels it for SELinux.
  timeout 7200 qemu-system-x86_64 -accel tcg,thread=multi -cpu max -m 2048 -smp 2 -nodefaults -no-reboot -display none -serial "file:$work/console" \
    -kernel "$work/vmlinuz" -initrd "$work/initrd" \
    -append "root=/dev/vda ro console=ttyS0 panic=-1 quiet init=/usr/local/sbin/fill-disk rig.form=$form rig.root=$RIG_ROOT_UUID rig.boot=$RIG_BOOT_UUID" \
    -drive "file=$work/root.ext4,format=raw,if=virtio,readonly=on" -drive "file=$disk,format=raw,if=virtio,cache=unsafe"
  grep -q '^RIG DONE' "$work/console" || {
    tail -n 30 "$work/console" >&2
    exit 1
  }
fi

if [ -n "$esp" ]; then
  mkfs.vfat -F 16 -n UEFI -C "$work/esp" $((esp_sectors / 2)) >/dev/null
  mmd -i "$work/esp" ::EFI ::EFI/BOOT ::EFI/debian
  mcopy -i "$work/esp" "$work/shim" ::EFI/BOOT/BOOTX64.EFI
  mcopy -i "$work/esp" "$work/grub-efi" ::EFI/BOOT/grubx64.efi
  mcopy -i "$work/esp" "$work/early.cfg" ::EFI/debian/grub.cfg
  mcopy -i "$work/esp" "$work/early.cfg" ::EFI/BOOT/grub.cfg
  put "$work/esp" $((esp * 512))
fi
if [ -n "$bios" ]; then "$official/grub-bios.py" "$disk" "$work/boot.img" "$work/core.img" "$bios"; fi

qemu-img convert -c -f raw -O qcow2 -o compression_type=zlib "$disk" "$work/image.qcow2"
chmod 644 "$work/image.qcow2"
(cd "$work" && sha256sum image.qcow2 >SHA256SUMS)
mv -- "$work/packages" "$work/image.qcow2" "$work/SHA256SUMS" "$folder"
echo "$form: $(stat -c %s "$folder/image.qcow2") bytes, $(grep -E '^linux-image-[0-9]' "$folder/packages")" >&2
