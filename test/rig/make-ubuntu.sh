#!/bin/bash
# Makes kernel packages with Ubuntu's names and in Ubuntu's split from Debian's, for the flavour generic. No privilege.
# usage: make-ubuntu.sh RELEASE DEBS-FOLDER POOL NUMBER     prints the kernel release, which Ubuntu's grammar has: 6.12.0-1057-generic
# The release is of the same length as Debian's, see rename-kernel.py: NUMBER is filled up to so many digits.
set -euo pipefail
old=$1 debs=$(realpath "$2") pool=$(realpath -m "$3") number=$4
here=$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")
base=$(sed -E 's/^([0-9]+\.[0-9]+).*/\1.0/' <<<"$old")
digits=$((${#old} - ${#base} - 9))
[ "$digits" -gt "${#number}" ] || { echo "no release of Ubuntu's is as long as $old" >&2; exit 1; }
abi=$base-1$(printf "%0$((digits - 1))d" "$number")
release=$abi-generic version=${abi/-/.}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
tree=$work/tree old_abi=${old%-*}
mkdir -p "$tree" "$pool"
for deb in "$debs"/*.deb; do dpkg-deb -x "$deb" "$tree"; done
if [ -d "$tree/usr/lib/modules" ]; then mkdir -p "$tree/lib"; mv "$tree/usr/lib/modules" "$tree/lib/modules"; fi
# What no virtual machine has: it would only cost time.
for folder in drivers/{gpu,media,infiniband,staging,iio,hid,usb,bluetooth,mmc,leds,hwmon,isdn,comedi,platform,mtd,input,accel,video} \
  drivers/net/{wireless,ethernet,usb,can} net/{bluetooth,wireless,mac80211} fs/{bcachefs,xfs,btrfs,nfs,smb} sound; do
  rm -rf "$tree/lib/modules/$old/kernel/$folder"
done
rm -f "$tree/lib/modules/$old/"{build,source}
python3 "$here/rename-kernel.py" "$tree" "$old" "$release"

# A package in the making: `stage NAME`, `put FROM TO` for files of the tree, `postinst TEXT`, and `pack`.
stage() { root=$work/packages/$1; mkdir -p "$root/DEBIAN"; }
put() { mkdir -p "$(dirname "$root$2")"; cp -al "$tree$1" "$root$2"; }
# Writes the package of `root`: its name, architecture, source, and more fields, one an argument.
pack() {
  local name=$1 arch=$2 source=$3
  shift 3
  {
    printf '%s\n' "Package: $name" "Architecture: $arch" "Source: $source" "Version: ${meta-$version}" "Section: kernel" "Priority: optional" \
      "Maintainer: Rig <rig@rig.invalid>" "Installed-Size: $(du -sk --apparent-size "$root" | cut -f 1)" "$@" \
      "Description: Debian's kernel in the form of Ubuntu's" " For tests."
  } >"$root/DEBIAN/control"
  dpkg-deb --root-owner-group -Zzstd -z1 --build "$root" "$pool/${name}_${meta-$version}_$arch.deb" >/dev/null
}
postinst() {
  printf '#!/bin/sh\nset -e\n[ "$1" = configure ] || exit 0\n%s\n' "$1" >"$root/DEBIAN/postinst"
  chmod 755 "$root/DEBIAN/postinst"
}

# The image, signed and unsigned: two packages of one kernel, from two sources.
for kind in '' unsigned-; do
  name=linux-image-$kind$release
  other=linux-image-$([ -n "$kind" ] || echo unsigned-)$release
  stage "$name"
  put "/boot/vmlinuz-$old" "/boot/vmlinuz-$release"
  postinst "depmod '$release'; run-parts --arg='$release' --arg='/boot/vmlinuz-$release' /etc/kernel/postinst.d"
  pack "$name" amd64 "linux$([ -n "$kind" ] || echo -signed)" "Depends: kmod, initramfs-tools | linux-initramfs-tool, linux-modules-$release" \
    "Provides: linux-image" "Conflicts: $other"
done

# Modules, and the less common ones apart. The configuration is with the modules.
extra=linux-modules-extra-$release
stage "$extra"
for folder in drivers/md drivers/target net/sched fs/ocfs2; do
  put "/lib/modules/$old/kernel/$folder" "/lib/modules/$release/kernel/$folder"
  rm -r "$tree/lib/modules/$old/kernel/$folder"
done
postinst "depmod '$release'"
pack "$extra" amd64 linux "Depends: linux-image-$release | linux-image-unsigned-$release, linux-modules-$release"
stage "linux-modules-$release"
put "/lib/modules/$old" "/lib/modules/$release"
put "/boot/System.map-$old" "/boot/System.map-$release"
sed -i "s/${old//./\\.}/$release/" "$tree/boot/config-$old"
put "/boot/config-$old" "/boot/config-$release"
pack "linux-modules-$release" amd64 linux

# Headers: what all flavours have in common, for every architecture, and the flavour's with the compiled scripts.
kbuild=$tree/usr/lib/linux-kbuild-$old_abi own=$tree/usr/src/linux-headers-$old common=$tree/usr/src/linux-headers-$old_abi-common
rm -f "$own/vmlinux" "$own"/{scripts,tools} "$common"/{scripts,tools}
cp -a "$kbuild"/{scripts,tools} "$own/"
cp -a "$kbuild"/{scripts,tools} "$common/"
find "$common"/{scripts,tools} -type f -exec sh -c 'head -c 4 "$1" | grep -q ELF && rm "$1"' sh {} \;
grep -rlIF -- "$old_abi" "$own" | xargs sed -i "s/linux-headers-${old_abi//./\\.}-common/linux-headers-$abi/g; s/${old//./\\.}/$release/g"
stage "linux-headers-$abi"
put "/usr/src/linux-headers-$old_abi-common" "/usr/src/linux-headers-$abi"
pack "linux-headers-$abi" all linux
stage "linux-headers-$release"
put "/usr/src/linux-headers-$old" "/usr/src/linux-headers-$release"
mkdir -p "$root/lib/modules/$release"
ln -s "/usr/src/linux-headers-$release" "$root/lib/modules/$release/build"
pack "linux-headers-$release" amd64 linux "Depends: linux-headers-$abi, libc6, libelf1, libssl3, zlib1g"

# What a machine follows.
meta=$base.${abi#*-}.${abi#*-}
for series in '' -hwe-24.04; do
  stage "linux-image-generic$series"
  pack "linux-image-generic$series" amd64 linux-meta "Depends: linux-image-$release, $extra"
  stage "linux-headers-generic$series"
  pack "linux-headers-generic$series" amd64 linux-meta "Depends: linux-headers-$release"
  stage "linux-generic$series"
  pack "linux-generic$series" amd64 linux-meta "Depends: linux-image-generic$series (= $meta), linux-headers-generic$series (= $meta)"
done
stage linux-image-virtual
pack linux-image-virtual amd64 linux-meta "Depends: linux-image-$release"
echo "$release"
