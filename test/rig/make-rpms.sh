#!/bin/bash
# Makes kernel packages in the form of the Red Hat family from Debian's, with repositories around them. No privilege.
# usage: make-rpms.sh RELEASE FOLDER IMAGE-PACKAGES URL
#   FOLDER          what kernel-debs.sh left; gets repo/, which will be served at URL
#   IMAGE-PACKAGES  names of the packages of Debian that the image has, one a line
# In base: kernel-core, kernel-modules-core and kernel-devel of that release, gcc, make and patch of Debian's packages with all that
# they need and the image lacks, rig-base, which provides what the image has and rpm's database does not know, and rig-firmware, which
# nothing needs of itself. As in the Red Hat family, dkms is elsewhere: extras has rig-epel-release, which brings the repository epel, whose
# dkms needs a package of crb.
set -euo pipefail
release=$1 folder=$(realpath "$2") url=$4
image_packages=$(realpath "$3") debs=$folder/debs repositories=$folder/repo
repository=$repositories/base
export APT_CONFIG=$folder/apt/apt.conf
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
tree=$work/tree
mkdir -p "$tree" "$repository"
for deb in "$debs"/*.deb; do dpkg-deb -x "$deb" "$tree"; done
rm -rf "$tree/usr/share"
# Debian's paths are those of a merged /usr, or are not.
if [ -d "$tree/usr/lib/modules" ]; then mkdir -p "$tree/lib"; mv "$tree/usr/lib/modules" "$tree/lib/modules"; fi
# What no virtual machine has: it would only cost time.
for folder in drivers/{gpu,media,infiniband,staging,iio,hid,usb,bluetooth,mmc,leds,hwmon,isdn,comedi,platform,mtd,input,accel,video,nvme,ata} \
  drivers/{md,target,firewire,message,power,thunderbolt,vfio,xen,hv} drivers/net/{wireless,ethernet,usb,can,phy} drivers/scsi/*/ \
  net/{bluetooth,wireless,mac80211} fs/{bcachefs,nfs,nfsd,smb,ceph,ocfs2,f2fs,gfs2,dlm} sound; do
  # shellcheck disable=SC2086 # a pattern
  rm -rf "$tree/lib/modules/$release/kernel/"$folder
done
# kernel-devel has none; with it, every module would get type information from pahole.
rm -f "$tree/usr/src/linux-headers-$release/vmlinux"
mkdir -p "$tree/usr/src/kernels"
ln -s "../linux-headers-$release" "$tree/usr/src/kernels/$release"
rm -f "$tree/lib/modules/$release/"{build,source}
ln -s "/usr/src/kernels/$release" "$tree/lib/modules/$release/build"

cat >"$work/kernel.spec" <<SPEC
%global debug_package %{nil}
%global __os_install_post %{nil}
%global _build_id_links none
%global _binary_payload w0.ufdio
Name: kernel
Version: ${release%-*}
Release: ${release##*-}
Summary: Debian's kernel in the form of the Red Hat family
License: GPL-2.0-only
ExclusiveArch: x86_64
AutoReqProv: no
%description
For tests.

%package core
Summary: The kernel image
AutoReqProv: no
Provides: installonlypkg(kernel)
Provides: kernel-uname-r = $release
Provides: kernel-core-uname-r = $release
Requires: kernel-modules-core-uname-r = $release
Requires(posttrans): dracut
%description core
For tests.
%posttrans core
depmod -a '$release'
dracut --force "/boot/initramfs-$release.img" '$release'
%files core
/boot/*
%dir /lib/modules/$release
/lib/modules/$release/modules.*

%package modules-core
Summary: The kernel's modules
AutoReqProv: no
Provides: installonlypkg(kernel-module)
Provides: kernel-modules-core-uname-r = $release
%description modules-core
For tests.
%files modules-core
/lib/modules/$release/kernel

%package devel
Summary: What modules are built against
AutoReqProv: no
Provides: installonlypkg(kernel)
Provides: kernel-devel-uname-r = $release
%description devel
For tests.
%files devel
/lib/modules/$release/build
/usr/src/*
$(cd "$tree" && find usr/lib -maxdepth 1 -name 'linux-kbuild-*' -printf '/%p\n')

%package -n rig-base
Summary: What the guest has from Debian
BuildArch: noarch
AutoReqProv: no
Provides: /bin/sh /bin/bash /usr/bin/bash /sbin/depmod /usr/sbin/depmod
Provides: bash coreutils kmod rpm-build elfutils-libelf-devel kernel-rpm-macros dracut
%description -n rig-base
For tests.
%files -n rig-base

%install
mkdir -p %{buildroot}
cp -a '$tree/.' %{buildroot}/
SPEC
rpmbuild -bb --quiet --target x86_64 --define "_topdir $work" --define "_rpmdir $repository" \
  --define '_rpmfilename %%{NAME}-%%{VERSION}-%%{RELEASE}.%%{ARCH}.rpm' "$work/kernel.spec"

# Packages of Debian as .rpm: `repack REPOSITORY NAME REQUIRES DEB…`; documentation stays behind, and hooks of Debian's kernels.
repack() {
  local into=$1 name=$2 requires=$3 each files=$work/$2.files
  shift 3
  mkdir "$work/$name"
  for each; do dpkg-deb -x "$each" "$work/$name"; done
  rm -rf "$work/$name"/usr/share/{doc,man,info,locale,lintian,bug} "$work/$name/etc/kernel"
  (cd "$work/$name" && find . \( -type f -o -type l \) -printf '"/%P"\n') >"$files"
  printf '%s\n' '%global debug_package %{nil}' '%global __os_install_post %{nil}' '%global _build_id_links none' \
    '%global _binary_payload w0.ufdio' "Name: $name" 'Version: 1' 'Release: 1' "Summary: Debian's, for tests" 'License: GPL-2.0-only' \
    'AutoReqProv: no' "${requires:+Requires: $requires}" '%description' 'For tests.' '%install' 'mkdir -p %{buildroot}' \
    "cp -a '$work/$name/.' %{buildroot}/" "%files -f $files" >"$work/$name.spec"
  rpmbuild -bb --quiet --target x86_64 --define "_topdir $work" --define "_rpmdir $repositories/$into" "$work/$name.spec"
}
# What apt would install beside what the image has.
image=$work/image more=$work/more
mkdir -p "$more/toolchain/partial"
xargs apt-cache show --no-all-versions <"$image_packages" 2>/dev/null | sed 's/^Package: .*/&\nStatus: install ok installed/' >"$image"
for name in make patch dkms; do (cd "$more" && apt-get -qq download "$name"); done
apt-get -qq -y --no-install-recommends --download-only -o Debug::NoLocking=1 -o "Dir::State::status=$image" -o "Dir::Cache::archives=$more/toolchain" \
  install gcc libc6-dev >&2
repack base gcc '' "$more"/toolchain/*.deb
repack base make '' "$more"/make_*.deb
repack base patch '' "$more"/patch_*.deb
repack epel dkms 'gcc make patch rig-crb' "$more"/dkms_*.deb

# $1 is a repository, $2 a package, the others are lines for its preamble; what it installs comes on stdin.
empty() {
  {
    printf '%s\n' "Name: $2" 'Version: 1' 'Release: 1' 'Summary: For tests' 'License: GPL-2.0-only' 'BuildArch: noarch' "${@:3}" \
      '%description' 'For tests.' '%install' 'mkdir -p %{buildroot}'
    cat
  } >"$work/$2.spec"
  rpmbuild -bb --quiet --define "_topdir $work" --define "_rpmdir $repositories/$1" "$work/$2.spec"
}
empty crb rig-crb <<<'%files'
empty base rig-firmware <<<'%files'
empty extras rig-epel-release <<SPEC
mkdir -p %{buildroot}/etc/yum.repos.d
printf '%s\n' '[epel]' name=epel 'baseurl=$url/epel' enabled=1 gpgcheck=0 >%{buildroot}/etc/yum.repos.d/epel.repo
%files
/etc/yum.repos.d/epel.repo
SPEC
for each in base extras epel crb; do createrepo_c -q --general-compress-type=gz "$repositories/$each"; done
