#!/bin/bash
# Makes kernel packages as repositories of kernels have them from Debian's: one package with image and modules, one with all headers, and
# metapackages. No privilege.
# usage: make-form.sh RELEASE DEBS-FOLDER POOL FORM        FORM is proxmox, xanmod, zabbly or rpi; prints the kernel release in that form's grammar
# The release is of the same length as Debian's, see rename-kernel.py.
set -euo pipefail
old=$1 debs=$(realpath "$2") pool=$(realpath -m "$3") form=$4
here=$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")
arch=amd64 abi=''
series=$(sed -E 's/^([0-9]+\.[0-9]+).*/\1/' <<<"$old")
# as_long MIDDLE TAIL: a release of the series with them around a number that fills it up. Where they leave no room for one, the series is cut.
as_long() {
  local head=$series fill
  while fill=$((${#old} - ${#head} - ${#1} - ${#2})); [ $fill -lt 1 ] && [ -n "$head" ]; do head=${head%?}; done
  echo "$head$1$(printf "%0${fill}d" 1 | sed 's/^0/1/')$2"
}
case $form in
  proxmox)
    release=$(as_long .0- -pve) version=$series.0-1
    image=proxmox-kernel-$release-signed headers=proxmox-headers-$release ;;
  xanmod)
    release=$(as_long . -x64v3-xanmod1) version=$release-0
    image=linux-image-$release headers=linux-headers-$release ;;
  zabbly)
    release=$(as_long . -zabbly+) version=${release%-*}-202601010000
    image=linux-image-$release headers=linux-headers-$release ;;
  rpi)
    # Of Debian's arm64 kernels; split into packages as Debian splits its own.
    arch=arm64 release=$(as_long . +rpt-rpi-v8) version=1:${release%%+*}-1+rpt1
    abi=${release%-rpi-v8} image=linux-image-$release headers=linux-headers-$release ;;
  *) echo "no such form: $form" >&2; exit 1 ;;
esac
[ "${#release}" -eq "${#old}" ] || { echo "$release is not as long as $old" >&2; exit 1; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
tree=$work/tree old_abi=${old%-*}
mkdir -p "$tree" "$pool"
for deb in "$debs"/*.deb; do dpkg-deb -x "$deb" "$tree"; done
if [ -d "$tree/usr/lib/modules" ]; then mkdir -p "$tree/lib"; mv "$tree/usr/lib/modules" "$tree/lib/modules"; fi
# What no virtual machine has: it would only cost time.
for folder in drivers/{gpu,media,infiniband,staging,iio,hid,usb,bluetooth,mmc,leds,hwmon,isdn,comedi,platform,mtd,input,accel,video,md,target} \
  drivers/net/{wireless,ethernet,usb,can} net/{bluetooth,wireless,mac80211,sched} fs/{bcachefs,xfs,btrfs,nfs,smb,ocfs2} sound; do
  rm -rf "$tree/lib/modules/$old/kernel/$folder"
done
rm -f "$tree/lib/modules/$old/"{build,source}
python3 "$here/rename-kernel.py" "$tree" "$old" "$release"

# A package in the making, as in make-ubuntu.sh.
stage() { root=$work/packages/$1; mkdir -p "$root/DEBIAN"; }
put() { mkdir -p "$(dirname "$root$2")"; cp -al "$tree$1" "$root$2"; }
pack() {
  local name=$1 version=$2
  shift 2
  {
    printf '%s\n' "Package: $name" "Architecture: $arch" "Version: $version" 'Section: kernel' 'Priority: optional' \
      'Maintainer: Rig <rig@rig.invalid>' "Installed-Size: $(du -sk --apparent-size "$root" | cut -f 1)" "$@" \
      "Description: Debian's kernel in another form" ' For tests.'
  } >"$root/DEBIAN/control"
  dpkg-deb --root-owner-group -Zzstd -z1 --build "$root" "$pool/${name}_${version#*:}_$arch.deb" >/dev/null
}

stage "$image"
put "/boot/vmlinuz-$old" "/boot/vmlinuz-$release"
put "/boot/System.map-$old" "/boot/System.map-$release"
sed -i "s/${old//./\\.}/$release/" "$tree/boot/config-$old"
put "/boot/config-$old" "/boot/config-$release"
put "/lib/modules/$old" "/lib/modules/$release"
cat >"$root/DEBIAN/postinst" <<POSTINST
#!/bin/sh
set -e
[ "\$1" = configure ] || exit 0
depmod '$release'
run-parts --arg='$release' --arg='/boot/vmlinuz-$release' /etc/kernel/postinst.d
POSTINST
chmod 755 "$root/DEBIAN/postinst"
pack "$image" "$version" 'Depends: kmod, initramfs-tools | linux-initramfs-tool' 'Provides: linux-image'

kbuild=$tree/usr/lib/linux-kbuild-$old_abi own=$tree/usr/src/linux-headers-$old common=$tree/usr/src/linux-headers-$old_abi-common
new_common=linux-headers-${abi:-$release}-common${abi:+-rpi}
rm -f "$own"/{scripts,tools} "$common"/{scripts,tools}
if [ -n "$abi" ]; then
  for folder in "$own" "$common"; do
    for each in scripts tools; do ln -s "/usr/lib/linux-kbuild-$abi/$each" "$folder/$each"; done
  done
  stage "linux-kbuild-$abi"
  put "/usr/lib/linux-kbuild-$old_abi" "/usr/lib/linux-kbuild-$abi"
  pack "linux-kbuild-$abi" "$version" 'Depends: libc6, libelf1, libssl3, zlib1g'
  stage "$new_common"
  put "/usr/src/linux-headers-$old_abi-common" "/usr/src/$new_common"
  pack "$new_common" "$version"
  needs="Depends: $new_common, linux-kbuild-$abi, gcc-12"
else
  # Nothing of the distro's goes with them: no linux-kbuild, and no compiler that they would name themselves.
  rm -f "$own/vmlinux"
  cp -a "$kbuild"/{scripts,tools} "$own/"
  cp -a "$kbuild"/{scripts,tools} "$common/"
  needs='Depends: libc6, libelf1, libssl3, zlib1g'
fi
grep -rlIF -- "$old_abi" "$own" | xargs sed -i "s/linux-headers-${old_abi//./\\.}-common/$new_common/g; s/${old//./\\.}/$release/g"
stage "$headers"
[ -n "$abi" ] || put "/usr/src/linux-headers-$old_abi-common" "/usr/src/$new_common"
put "/usr/src/linux-headers-$old" "/usr/src/linux-headers-$release"
mkdir -p "$root/lib/modules/$release"
ln -s "/usr/src/linux-headers-$release" "$root/lib/modules/$release/build"
pack "$headers" "$version" "$needs" "Provides: linux-headers-$release-$arch"

# What a machine follows.
if [ "$form" = rpi ]; then
  stage linux-image-rpi-v8; pack linux-image-rpi-v8 "$version" "Depends: $image"
  stage linux-headers-rpi-v8; pack linux-headers-rpi-v8 "$version" "Depends: $headers"
elif [ "$form" = zabbly ]; then
  stage linux-zabbly; pack linux-zabbly "$version" "Depends: $image, $headers"
elif [ "$form" = proxmox ]; then
  stage "proxmox-kernel-$series"; pack "proxmox-kernel-$series" "$version" "Depends: $image | ${image%-signed}"
  stage "proxmox-headers-$series"; pack "proxmox-headers-$series" "$version" "Depends: $headers"
  stage proxmox-default-kernel; pack proxmox-default-kernel 1.1.0 "Depends: proxmox-kernel-$series"
  stage proxmox-default-headers; pack proxmox-default-headers 1.1.0 "Depends: proxmox-headers-$series"
else
  stage linux-xanmod-x64v3; pack linux-xanmod-x64v3 "$version" "Depends: $image, $headers"
fi
echo "$release"
