#!/usr/bin/env bash
# Makes an image like Debian's official genericcloud one, from Debian's packages alone, for tests of the road that users take:
# GPT with a BIOS boot partition and an ESP, grub for both, mirror+file sources, a cloud kernel older than the newest, 3 GiB.
# What is known of the real ones stands in README.md beside this file. Needs no root: mmdebstrap has a user namespace.
#
# Usage: make-debian.sh SUITE MIRROR SECURITY_MIRROR FOLDER
#   SUITE             bookworm, trixie, forky or sid
#   MIRROR, SECURITY  http URLs of Debian's archive and its security archive; the image itself names them with https
#   FOLDER            gets debian-N-genericcloud-amd64.qcow2 (forky, sid: -daily), SHA512SUMS and packages, in the layout of Debian's server
set -euo pipefail

suite=$1 mirror=${2%/} security=${3%/} folder=$4
here=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd -P)
PATH=$PATH:/usr/sbin:/sbin
# mke2fs, the partition table and file times are the same each time.
export SOURCE_DATE_EPOCH=1577836800 MKE2FS_SKIP_PROGRESS=1

case $suite in
  bookworm) version=12 daily= ;;
  trixie) version=13 daily= ;;
  forky) version=14 daily=-daily ;;
  sid) version=sid daily=-daily ;;
  *)
    echo "make-debian.sh: no such suite: $suite" >&2
    exit 2
    ;;
esac
name=debian-$version-genericcloud-amd64$daily

mkdir -p "$folder"
# Not in a home folder: the root of the namespace is another user there.
work=$(mktemp -d)
trap 'rm -rf -- "$work"' EXIT

# Without the security archive, so that the image is as old as the last point release: there is a newer kernel than its own.
sources=("deb $mirror $suite main")
if [[ $suite != sid ]]; then sources+=("deb $mirror $suite-updates main"); fi

# --- the root folder, and from it the root file system ---------------------------------------------------------------
list=$here/$suite.packages
mapfile -t packages < <(grep -v '^#' "$list")
root_uuid=$(cat /proc/sys/kernel/random/uuid) root_part=$(cat /proc/sys/kernel/random/uuid) esp_part=$(cat /proc/sys/kernel/random/uuid)

# dpkg reads its own file there, as the root of the namespace.
export HOME=$work
export RIG_SUITE=$suite RIG_MIRROR=$mirror RIG_SECURITY=$security RIG_WORK=$work
export RIG_ROOT_UUID=$root_uuid RIG_ROOT_PART=$root_part RIG_ESP_PART=$esp_part
# 3 GiB without the 1 MiB in front, the 3 MiB of grub, the 124 MiB of the ESP and the 1 MiB of the table's copy.
export RIG_ROOT_MIB=$((3072 - 1 - 3 - 124 - 1))
chmod 777 "$work"
install -m 755 -t "$work" "$here/customize-debian.sh" "$here/finish-root.sh" "$here/write-root.sh"
# A mirror that has stood still for weeks serves its testing and unstable no longer: there the image, too, is told to take them.
export RIG_STALE=
fetch='import sys, urllib.request; sys.stdout.buffer.write(urllib.request.urlopen(sys.argv[1]).read())'
valid=$(python3 -c "$fetch" "$mirror/dists/$suite/InRelease" | sed -n 's/^Valid-Until: //p')
stale=()
if [[ -n $valid ]] && (($(date -d "$valid" +%s) < $(date +%s))); then
  RIG_STALE=1 stale=(--aptopt='Acquire::Check-Valid-Until "false"')
fi
printf '%s\n' "${sources[@]}" |
  mmdebstrap --quiet --mode=unshare --variant=required --format=null --skip=cleanup \
    --include="$(IFS=,; echo "${packages[*]}")" \
    --aptopt='Acquire::Retries "5"' --aptopt='APT::Install-Recommends "false"' --aptopt='APT::Install-Suggests "false"' \
    --dpkgopt=force-unsafe-io ${stale[@]+"${stale[@]}"} \
    --customize-hook="$work/customize-debian.sh" \
    --customize-hook="$work/finish-root.sh" \
    --customize-hook="$work/write-root.sh" \
    "$suite" - - >&2

# --- the disk -----------------------------------------------------------------------------------------------------------
disk=$work/disk.raw
truncate -s 3G "$disk"
sfdisk --quiet "$disk" <<TABLE
label: gpt
14 : start=2048, size=6144, type=21686148-6449-6E6F-744E-656564454649
15 : start=8192, size=253952, type=C12A7328-F81F-11D2-BA4B-00A0C93EC93B, uuid=$esp_part
1 : start=262144, size=$((RIG_ROOT_MIB * 2048)), type=4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709, uuid=$root_part
TABLE
put() { dd if="$1" of="$disk" bs=64K oflag=seek_bytes conv=notrunc,sparse seek="$2" status=none; }
put "$work/root.ext4" $((262144 * 512))

mkfs.vfat -F 16 -n UEFI -C "$work/esp" $((253952 / 2)) >/dev/null
mmd -i "$work/esp" ::EFI ::EFI/BOOT ::EFI/debian
mcopy -i "$work/esp" "$work/shim" ::EFI/BOOT/BOOTX64.EFI
mcopy -i "$work/esp" "$work/grub-efi" ::EFI/BOOT/grubx64.efi
printf 'search.fs_uuid %s root\nset prefix=($root)/boot/grub\nconfigfile $prefix/grub.cfg\n' "$root_uuid" >"$work/early.cfg"
mcopy -i "$work/esp" "$work/early.cfg" ::EFI/debian/grub.cfg
mcopy -i "$work/esp" "$work/early.cfg" ::EFI/BOOT/grub.cfg
put "$work/esp" $((8192 * 512))

"$here/grub-bios.py" "$disk" "$work/boot.img" "$work/core.img" 2048

qemu-img convert -c -f raw -O qcow2 -o compression_type=zlib "$disk" "$work/$name.qcow2"
chmod 644 "$work/$name.qcow2"
(cd "$work" && sha512sum "$name.qcow2" >SHA512SUMS)
mv -- "$work/packages" "$work/$name.qcow2" "$work/SHA512SUMS" "$folder"
echo "$name: $(stat -c %s "$folder/$name.qcow2") bytes, $(grep -E '^linux-image-[0-9]' "$folder/packages")" >&2
