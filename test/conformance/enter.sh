#!/bin/bash
# Runs a command as root of a distro's root folder, in namespaces of its own, and, where asked, with all that it writes kept
# apart. Started as root of a user namespace (or as root).
# usage: enter.sh ROOT UPPER|- RELEASE COMMAND…
#   UPPER    an empty folder, or one of an earlier call: holds what is written (UPPER/up); -: ROOT itself is written to
#   RELEASE  the kernel that /proc says runs
# PORT in the environment is a terminal that stands for the port to the host's compiler, see cc-host.c.
set -eu
# shellcheck source=/dev/null
. "$(dirname -- "${BASH_SOURCE[0]}")/../rig/root-devices.sh"
root=$1 upper=$2 release=$3
shift 3
if [ "$upper" != - ]; then
  mkdir -p "$upper/up" "$upper/work" "$upper/root"
  mount -t overlay overlay -o "lowerdir=$root,upperdir=$upper/up,workdir=$upper/work,userxattr" "$upper/root" 2>/dev/null ||
    mount -t overlay overlay -o "lowerdir=$root,upperdir=$upper/up,workdir=$upper/work" "$upper/root"
  root=$upper/root
fi
mount_system "$root"
mkdir "$root/dev/shm"
if [ -n "${PORT:-}" ]; then
  mkdir "$root/dev/virtio-ports"
  : >"$root/dev/virtio-ports/dkms2bin.cc"
  mount --bind "$(readlink -f "$PORT")" "$root/dev/virtio-ports/dkms2bin.cc"
fi
mount -t tmpfs tmpfs "$root/tmp"
chmod 1777 "$root/tmp" "$root/dev/shm"
# Of systemd-resolved it is a link that leads nowhere here.
cp -L --remove-destination /etc/resolv.conf "$root/etc/resolv.conf"
if [ "$upper" != - ]; then
  echo "$release" >"$root/tmp/osrelease"
  mount --bind "$root/tmp/osrelease" "$root/proc/sys/kernel/osrelease"
fi
export HOME=/root LC_ALL=C PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
unset TMPDIR PORT
exec chroot "$root" "$@"
