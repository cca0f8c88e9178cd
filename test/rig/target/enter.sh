#!/bin/bash
# Runs a command in a root folder of make-root.sh's, whose files stay as they are: what changes goes into UPPER. Run as root of
# namespaces for mounts and processes, which take all that is started with them.
# usage: enter.sh WORK UPPER LOWER[:LOWER…] COMMAND…
set -eu
# shellcheck source=/dev/null
. "$(dirname -- "${BASH_SOURCE[0]}")/../root-devices.sh"
work=$1 upper=$2 lower=$3
shift 3
root=$work/root
mkdir -p "$root" "$upper.work" "$upper"
mount --make-rprivate /
overlay="lowerdir=$lower,upperdir=$upper,workdir=$upper.work"
# Only so can an ordinary user's overlay tell of a folder that replaces one below. Linux before 5.11 does not know it.
mount -t overlay overlay -o "$overlay,userxattr" "$root" 2>/dev/null || mount -t overlay overlay -o "$overlay" "$root"
mount_system "$root"
mount -t tmpfs tmpfs "$root/run"
# What a test brings, and what it reads back.
mkdir -p "$root/mnt"
mount --bind "$work" "$root/mnt"
exec chroot "$root" env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C.UTF-8 DEBIAN_FRONTEND=noninteractive HOME=/root "$@"
