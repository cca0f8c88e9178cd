#!/bin/bash
# Runs a command whose programs may be of a foreign architecture, through qemu-user. Runs as root of a user namespace with
# a mount namespace of its own: there it registers qemu-user, unless the host has. What root itself
# registers is the host's, for as long as anything has binfmt_misc mounted.
# usage: emulate.sh ARCH COMMAND…
set -eu
arch=$1
shift
misc=/proc/sys/fs/binfmt_misc
# As the distro's qemu-user has it, with the flag F: roots that lack the interpreter find it.
conf=/usr/lib/binfmt.d/qemu-$arch.conf
if [ ! -e "$misc/qemu-$arch" ]; then
  if [ ! -e "$conf" ]; then
    echo "programs of $arch cannot be run here: apt-get install qemu-user-static (from Debian 13 on qemu-user-binfmt)" >&2
    exit 1
  fi
  # A user namespace has a binfmt_misc of its own since Linux 6.7.
  if ! mount -t binfmt_misc binfmt_misc "$misc"; then
    echo "programs of $arch cannot be run here: before Linux 6.7 root has to register them: systemctl restart systemd-binfmt" >&2
    exit 1
  fi
  [ -e "$misc/qemu-$arch" ] || cat "$conf" >"$misc/register"
fi
exec "$@"
