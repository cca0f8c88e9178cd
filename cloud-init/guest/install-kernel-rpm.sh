#!/bin/bash
# Installs one exact kernel in a guest whose packages are .rpm files, with its headers and the DKMS toolchain or alone. Run as root.
#
# Variables (put in front by the host, quoted):
#   RELEASE             what `uname -r` shall print, e.g. 5.14.0-503.el9.x86_64
#   VARIANT             build, the default: kernel, headers and toolchain; runtime: the kernel alone, as on a target machine
#   MANAGER             dnf or zypper
#   IMAGE               names of the image's packages as MANAGER takes them; the first that exists is taken
#   MODULES, HEADERS    what must come with it, and what modules are built against
#   EXTRA               what is taken where it exists
#   REPOS               repositories to use instead of the image's own, words NAME=URL, or NAME!=URL for one whose packages nobody
#                       signed; may be empty
#   KERNEL_PACKAGE_DIR  folder in the guest with .rpm files to use instead, may be empty
#
# Result lines: those of install-kernel.sh, but for toolchain. Leaves /boot/initrd.img-RELEASE, /boot/vmlinuz-RELEASE and
# /boot/config-RELEASE, whatever the distro calls them.
#
# Exit codes: 0 done · 2 bad variables · 3 kernel or headers not found · 5 network or mirror fault, worth a retry ·
#   8 no space left · 9 the package manager failed for another reason · 10 the initramfs could not be made
set -u
export LC_ALL=C PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root
RELEASE=${RELEASE:-} VARIANT=${VARIANT:-build} MANAGER=${MANAGER:-dnf} IMAGE=${IMAGE:-} MODULES=${MODULES:-} HEADERS=${HEADERS:-}
EXTRA=${EXTRA:-} REPOS=${REPOS:-} KERNEL_PACKAGE_DIR=${KERNEL_PACKAGE_DIR:-}

say() { local key=$1; shift; printf '@@dkms2bin %s %s\n' "$key" "$(printf '%s' "$*" | tr '\n\t' '  ')"; }
fail() { local code=$1; shift; say error "$*"; exit "$code"; }

case $RELEASE in '' | *[!A-Za-z0-9.+~_-]*) fail 2 "RELEASE is not a kernel release: '$RELEASE'" ;; esac
case $VARIANT in build | runtime) ;; *) fail 2 "VARIANT is neither build nor runtime: '$VARIANT'" ;; esac
case $MANAGER in dnf | zypper) ;; *) fail 2 "MANAGER is neither dnf nor zypper: '$MANAGER'" ;; esac
[ -n "$IMAGE" ] || fail 2 'IMAGE names no package'

work=$(mktemp -d) || fail 8 'no temporary folder'
log=$work/log
list=/etc/yum.repos.d/dkms2bin.repo
trap 'rm -rf "$work" "$list"' EXIT

only=()
if [ -n "$REPOS" ]; then
  [ "$MANAGER" = dnf ] || fail 2 'REPOS are for dnf only'
  mkdir -p "${list%/*}"
  for each in $REPOS; do
    name=${each%%=*} check=
    case $name in *'!') name=${name%!} check='gpgcheck=0' ;; esac
    printf '[dkms2bin-%s]\nname=%s\nbaseurl=%s\nenabled=1\nmetadata_expire=0\n%s\n' "$name" "$name" "${each#*=}" "$check"
  done >"$list"
  only=('--disablerepo=*' '--enablerepo=dkms2bin-*')
fi
manage() { # WORDS…: the package manager, nobody asked
  if [ "$MANAGER" = dnf ]; then dnf -y --setopt=install_weak_deps=False ${only[@]+"${only[@]}"} "$@"
  else zypper --non-interactive --gpg-auto-import-keys "$@"; fi </dev/null >"$log" 2>&1
  local code=$?
  sed -e 's/^@@dkms2bin/ &/' "$log"
  return "$code"
}
install() {
  if [ "$MANAGER" = dnf ]; then manage install "$@"
  else manage install --no-recommends --oldpackage "$@"; fi
}
verdict() {
  if grep -qiE 'No space left on device|needs [0-9.]+ ?[KMG]i?B? (more space )?on the|not enough free space' "$log"; then echo space
  elif grep -qiE 'No match for argument|Unable to find a match|No package .* (found|available)|not found in package names|No provider of|nothing provides' "$log"; then echo missing
  elif grep -qiE 'Curl error|Failed to download|Cannot download|Error: Failed|Status code: [45]|Could not resolve|Timeout|Connection (refused|reset)|No more mirrors|Download .* error' "$log"; then echo network
  else echo other; fi
}
give_up() {
  local why; why=$(grep -iE 'error|no match|nothing provides|problem|conflict' "$log" | head -n 3 | tr '\n' ' ')
  [ -n "$why" ] || why=$(tail -n 2 "$log" | tr '\n' ' ')
  case $(verdict) in
    space) fail 8 "the guest's disk is full: $why" ;;
    missing)
      if [ "$MANAGER" = dnf ]; then
        dnf -q ${only[@]+"${only[@]}"} repoquery --qf '%{version}-%{release}.%{arch}' "${IMAGE%%-[0-9]*}" 2>/dev/null | sort -uV | tail -n 8 |
          while read -r near; do say near "$near"; done
      fi
      fail 3 "not installable: $why" ;;
    network) fail 5 "the mirror did not deliver: $why" ;;
    *) fail 9 "$MANAGER failed: $why" ;;
  esac
}

toolchain=()
if [ "$VARIANT" = build ]; then
  # dkms must not build by itself, nor sign with a key of its own (two builds would differ).
  mkdir -p /etc/dkms/framework.conf.d
  : >/etc/dkms/no-autoinstall
  printf '# dkms2bin: modules are signed outside the guest.\nsign_file="/nonexistent"\n' >/etc/dkms/framework.conf.d/dkms2bin.conf
  toolchain=(gcc make rpm-build)
  # shellcheck disable=SC2206 # a list
  wanted=($MODULES $HEADERS)
else
  # shellcheck disable=SC2206 # a list
  wanted=($MODULES)
fi
image=
if [ -n "$KERNEL_PACKAGE_DIR" ]; then
  wanted=()
  for file in "$KERNEL_PACKAGE_DIR"/*.rpm; do
    [ -f "$file" ] || continue
    name=$(rpm -qp --qf '%{NAME}' "$file" 2>/dev/null) || fail 3 "not an RPM package: $file"
    case $name in
      *-devel) [ "$VARIANT" = build ] || continue ;;
      *-debuginfo* | kernel-headers) continue ;;
    esac
    case " $IMAGE" in *" $name-"* | *" $name "* | *" $name") image=$name ;; esac
    wanted+=("$(readlink -f "$file")")
  done
  [ -n "$image" ] || fail 3 "none of $IMAGE among the kernel package files"
  install "${wanted[@]}" || give_up
else
  for each in $IMAGE; do
    echo "installing $each ${wanted[*]}"
    if install "$each" ${wanted[@]+"${wanted[@]}"}; then image=$each; break; fi
    [ "$(verdict)" = missing ] || give_up
  done
  [ -n "$image" ] || give_up
fi
for each in $EXTRA; do
  install "$each" || [ "$(verdict)" = missing ] || give_up
done
if [ "$VARIANT" = build ]; then
  install "${toolchain[@]}" || give_up
  # The Red Hat family has dkms in EPEL.
  if ! install dkms; then
    [ "$(verdict)" = missing ] || give_up
    install epel-release || give_up
    install dkms || give_up
  fi
  if [ -f /etc/dkms/framework.conf ] && ! grep -qs 'framework.conf.d' "$(command -v dkms)"; then
    grep -q '^sign_file=' /etc/dkms/framework.conf || printf '\n# dkms2bin\nsign_file="/nonexistent"\n' >>/etc/dkms/framework.conf
  fi
fi

tree=/lib/modules/$RELEASE
[ -d "$tree" ] || fail 3 "$image brought no $tree"
[ "$VARIANT" = runtime ] || [ -e "$tree/build/Makefile" ] || fail 3 "$HEADERS brought no $tree/build"
for name in vmlinuz config; do
  [ -f "/boot/$name-$RELEASE" ] || [ ! -f "$tree/$name" ] || cp "$tree/$name" "/boot/$name-$RELEASE"
  [ -f "/boot/$name-$RELEASE" ] || fail 3 "$image brought no $name"
done
[ -e "$tree/modules.dep" ] || depmod "$RELEASE"
initrd=/boot/initrd.img-$RELEASE
if [ ! -s "$initrd" ]; then
  for each in "/boot/initramfs-$RELEASE.img" "/boot/initrd-$RELEASE"; do
    if [ -s "$each" ]; then ln -sf "${each##*/}" "$initrd"; break; fi
  done
fi
[ -s "$initrd" ] || dracut --no-hostonly --force "$initrd" "$RELEASE" 2>&1 | tail -n 20
[ -s "$initrd" ] || fail 10 "no initramfs for $RELEASE"

version_of() { rpm -q --qf '%{VERSION}-%{RELEASE}\n' "$1" 2>/dev/null | grep -v 'not installed' | tail -n 1; }
headers=${HEADERS%% *}
say image-package "$(rpm -q --qf '%{NAME}\n' "$image" 2>/dev/null | tail -n 1)"
say image-version "$(version_of "$image")"
say headers-version "$(version_of "$headers")"
say gcc-version "$( (readlink -f "$(command -v gcc)"; gcc -dumpfullversion) 2>/dev/null | tr '\n' ' ' | sed 's/ *$//')"
say dkms-version "$(version_of dkms)"
say vmlinuz "/boot/vmlinuz-$RELEASE"
say initrd "$initrd"
# In a chroot findmnt would tell of the host.
uuid=$(sed -nE 's,^UUID=([^ ]+)[[:space:]]+/[[:space:]].*,\1,p' /etc/fstab 2>/dev/null)
say root-uuid "${uuid:-$(findmnt -no UUID / 2>/dev/null)}"
say cmdline "$(sed 's/BOOT_IMAGE=[^ ]* *//' /proc/cmdline 2>/dev/null)"
sync
