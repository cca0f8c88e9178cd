#!/bin/bash
# Reads a root file system that is not mounted, with owners and modes: no privilege, no mount. Runs as root of a
# sandbox: see src/lib/sandbox.ts. Devices, pipes, sockets and extended attributes stay behind, and what had
# several names becomes several files.
# usage: unpack-root.sh OUT FILESYSTEM
#   FILESYSTEM  as e2fsprogs takes it
# Leaves OUT/root.tar.zst.
set -eu
set -o pipefail
export LC_ALL=C
out=$1 filesystem=$2
root=$out/root
mkdir "$root"
# In memory where there is plenty: many small files cost a disk several times as long.
if [ "$(awk '$1 == "MemAvailable:" { print $2 }' /proc/meminfo)" -gt 4194304 ]; then
  mount -t tmpfs -o mode=755 tmpfs "$root"
fi
debugfs -R "rdump / $root" "$filesystem" >/dev/null 2>"$out/complaints"
# It exits 0 whatever happened; after its own name and version it complains on stderr.
if grep -v '^debugfs [0-9]' "$out/complaints" >&2; then exit 1; fi
if [ ! -e "$root/etc/os-release" ] && [ ! -L "$root/etc/os-release" ]; then
  echo 'its largest file system is not its root' >&2
  exit 1
fi
tar -C "$root" -c --numeric-owner --exclude='./dev/*' . | zstd -q -1 -T0 -o "$out/root.tar.zst"
