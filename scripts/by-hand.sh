#!/usr/bin/env bash
# Builds one DKMS package for one kernel the way it is done without dkms2bin: cloud image, seed ISO, QEMU, ssh, apt, dkms,
# dpkg-deb, scp. The benchmark's yardstick (npm run bench): nothing here waits longer than it must.
#
# usage: by-hand.sh MODULE-PACKAGE KERNEL IMAGE OUTDIR
#   such as: by-hand.sh acpi-call-dkms 6.1.0-56-amd64 debian-12-genericcloud-amd64.qcow2 ./out
# Environment: ACCEL (kvm or tcg; default: kvm where /dev/kvm can be opened), CPUS (2), MEMORY in MiB (2048)
# IMAGE is a Debian cloud image that boots by BIOS; it is not written to. The package is put into OUTDIR, its path printed.
# Exit codes: 0 done, 2 usage, else what failed said why on standard error.
set -euo pipefail

if (($# != 4)); then
  sed -n '2,/^set /{/^set /!s/^# \{0,1\}//p}' "$0" >&2
  exit 2
fi
module=$1 kernel=$2 image=$(readlink -f -- "$3") out=$4
[[ $module =~ ^[a-z0-9][a-z0-9+.-]*$ && $kernel =~ ^[A-Za-z0-9][A-Za-z0-9.+~_-]*$ ]] || {
  echo "by-hand: not a package name or not a kernel release: $module $kernel" >&2
  exit 2
}
mkdir -p -- "$out"
out=$(cd -- "$out" && pwd)
accel=${ACCEL:-$(if [[ -r /dev/kvm && -w /dev/kvm ]]; then echo kvm; else echo tcg; fi)}
case $accel in
  kvm) processor=(-accel kvm -cpu host) ;;
  *) processor=(-accel tcg,thread=multi -cpu max) ;;
esac

work=$(mktemp -d)
qemu=
finish() {
  if [[ $qemu ]]; then
    kill "$qemu" 2>/dev/null || true
    wait "$qemu" 2>/dev/null || true
  fi
  rm -rf -- "$work"
}
trap finish EXIT
trap 'exit 130' INT TERM
step() { printf 'by-hand: %4d s  %s\n' "$SECONDS" "$*" >&2; }
die() {
  printf 'by-hand: %s\nThe console ends:\n%s\n' "$*" "$(tail -n 12 "$work/console" 2>/dev/null)" >&2
  exit 1
}

step 'seed and disk'
ssh-keygen -q -t ed25519 -N '' -C by-hand -f "$work/id"
cat >"$work/user-data" <<SEED
#cloud-config
users:
  - name: builder
    shell: /bin/bash
    lock_passwd: true
    sudo: ["ALL=(ALL) NOPASSWD:ALL"]
    ssh_authorized_keys: ["$(cat "$work/id.pub")"]
SEED
printf 'instance-id: by-hand-%s\nlocal-hostname: localhost\n' "$RANDOM$RANDOM" >"$work/meta-data"
(cd "$work" && xorriso -as mkisofs -quiet -V cidata -J -R -o seed.iso user-data meta-data)
qemu-img create -q -f qcow2 -F qcow2 -b "$image" "$work/disk.qcow2"

step "QEMU ($accel)"
port=$((20000 + RANDOM % 12000))
qemu-system-x86_64 -machine q35 "${processor[@]}" -smp "${CPUS:-2}" -m "${MEMORY:-2048}" -display none \
  -serial "file:$work/console" -device virtio-rng-pci \
  -drive "if=virtio,format=qcow2,cache=unsafe,file=$work/disk.qcow2" \
  -drive "if=virtio,format=raw,readonly=on,file=$work/seed.iso" \
  -netdev "user,id=net,hostfwd=tcp:127.0.0.1:$port-:22" -device virtio-net-pci,netdev=net &
qemu=$!

options=(-F none -i "$work/id" -o IdentitiesOnly=yes -o BatchMode=yes -o StrictHostKeyChecking=no
  -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR -o ConnectTimeout=60)
# QEMU takes connections before the guest does: only sshd's greeting shows that it is there.
greets() { (read -r -t 5 line <"/dev/tcp/127.0.0.1/$port" && [[ $line == SSH-* ]]) 2>/dev/null; }
# in_guest SCRIPT ARG…: runs a script as root as soon as ssh lets it. A script that ends with 254 is run again: it is
# the old kernel that still answers, on its way down.
in_guest() {
  local script=$1 code end=$((SECONDS + 1800))
  shift
  while ((SECONDS < end)); do
    kill -0 "$qemu" 2>/dev/null || die 'QEMU ended'
    if greets; then
      code=0
      # Read as a whole before it runs, so that no command in it can read the rest of it.
      ssh "${options[@]}" -p "$port" builder@127.0.0.1 "sudo bash -s --$(printf ' %q' "$@")" \
        <<<"{ $script"$'\n''exit; } </dev/null' >&2 || code=$?
      case $code in
        254 | 255) ;;
        *) return "$code" ;;
      esac
    fi
    sleep 0.5
  done
  die 'no way in by ssh'
}

# The host's proxy, as the guest reaches it.
proxy=$(apt-config dump --format '%v' Acquire::http::Proxy 2>/dev/null || true)
proxy=${proxy:-${http_proxy:-}}
proxy=$(sed -E 's,//(localhost|127\.[0-9.]+)([:/]|$),//10.0.2.2\2,' <<<"$proxy")

step 'waiting for ssh, then kernel, headers and dkms by apt'
in_guest '
set -eu
export DEBIAN_FRONTEND=noninteractive LC_ALL=C
kernel=$1 proxy=$2
[ -z "$proxy" ] || echo "Acquire::http::Proxy \"$proxy\";" >/etc/apt/apt.conf.d/80proxy
# Where grub makes its own menu, the kernel that was asked for has to be its choice.
GRUB_DISABLE_SUBMENU=
if [ -e /etc/default/grub ]; then . /etc/default/grub; fi
entry=$kernel-advanced-$(findmnt -no UUID /)
[ "$GRUB_DISABLE_SUBMENU" = true ] || entry="advanced-${entry#"$kernel-advanced-"}>gnulinux-$entry"
mkdir -p /etc/default/grub.d
echo "GRUB_DEFAULT=\"gnulinux-$entry\"" >/etc/default/grub.d/by-hand.cfg
apt="apt-get -qy -o DPkg::Lock::Timeout=300 -o Dpkg::Use-Pty=0"
$apt update
$apt install --no-install-recommends "linux-image-$kernel" "linux-headers-$kernel" dkms
if [ "$(uname -r)" != "$kernel" ]; then
  # An image without update-grub boots what /vmlinuz names.
  if [ -L /vmlinuz ]; then
    ln -sf "boot/vmlinuz-$kernel" /vmlinuz
    ln -sf "boot/initrd.img-$kernel" /initrd.img
  fi
  systemctl --no-block reboot
fi
' "$kernel" "$proxy" || die 'the kernel could not be installed'

step "waiting for kernel $kernel, then $module by apt and dkms"
in_guest '
set -eu
export DEBIAN_FRONTEND=noninteractive LC_ALL=C
kernel=$1 module=$2
[ "$(uname -r)" = "$kernel" ] || exit 254
apt-get -qy -o DPkg::Lock::Timeout=300 -o Dpkg::Use-Pty=0 install --no-install-recommends "$module"
conf=$(dpkg-query -L "$module" | grep -m 1 "^/usr/src/[^/]*/dkms.conf$")
name=$(sed -n "s/^PACKAGE_NAME=[\"'\'']\{0,1\}\([^\"'\'']*\).*/\1/p" "$conf")
version=$(sed -n "s/^PACKAGE_VERSION=[\"'\'']\{0,1\}\([^\"'\'']*\).*/\1/p" "$conf")
# The package builds for the running kernel when it is installed, unless the image tells dkms not to.
built=/var/lib/dkms/$name/$version/$kernel/$(uname -m)/module
[ -d "$built" ] || dkms build -m "$name" -v "$version" -k "$kernel"
root=$(mktemp -d)
mkdir -p "$root/DEBIAN" "$root/lib/modules/$kernel/updates/dkms"
cp "$built"/*.ko* "$root/lib/modules/$kernel/updates/dkms/"
cat >"$root/DEBIAN/control" <<CONTROL
Package: $(echo "$name" | tr _ -)-modules-$kernel
Version: $version
Architecture: $(dpkg --print-architecture)
Maintainer: by hand <root@localhost>
Depends: linux-image-$kernel
Description: $name for Linux $kernel
CONTROL
chmod 755 "$root"
dpkg-deb --root-owner-group --build "$root" /tmp/by-hand.deb
' "$kernel" "$module" || die "$module was not built"

step 'scp'
package=$out/${module%-dkms}-modules-${kernel}_amd64.deb
scp "${options[@]}" -P "$port" -q builder@127.0.0.1:/tmp/by-hand.deb "$package"
step 'done'
echo "$package"
