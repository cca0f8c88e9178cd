#!/bin/bash
# Installs a kernel into a copy of an image's root folder, on the host at native speed, and writes what changed to the
# image's file system. Runs as root of a user namespace with mount and PID namespaces of its own (or as root with those).
# usage: native-layer.sh SCRATCH TAR RELEASE FILESYSTEM
#   SCRATCH     holds `in/`: install-kernel.sh and provision.sh with their variables, files/ to copy into the root, apt.conf
#   TAR         the image's root folder, zstd
#   FILESYSTEM  of the image, as e2fsprogs takes it: a writable copy
# Leaves in SCRATCH: before and after (paths, see the end), packages, vmlinuz, initrd, config. Then prints `@@dkms2bin installed`
# and waits for a line; SCRATCH/commands now holds debugfs's commands, whose complaints go to SCRATCH/complaints.
# Exit codes: install-kernel.sh's, and 1 when this host is to blame.
set -eu
# Mount, tar and cp end with codes that install-kernel.sh has too.
trap 'exit 1' ERR
set -o pipefail
export LC_ALL=C
scratch=$1 tar=$2 release=$3 filesystem=$4
root=$scratch/root
mkdir "$root"
# In memory where there is plenty: dpkg's many small files cost a disk several times as long.
if [ "$(awk '$1 == "MemAvailable:" { print $2 }' /proc/meminfo)" -gt 4194304 ]; then
  mount -t tmpfs -o mode=755 tmpfs "$root"
fi
# By tar itself: it may leave padding unread, and in a pipe of the shell's zstd would then die of SIGPIPE, every third time.
tar -C "$root" -x -I zstd --numeric-owner -p --exclude='./dev/*' -f "$tar"
(cd "$root" && find . -xdev -mindepth 1 -printf '%y\t%P\n') >"$scratch/before"
# Not sticky: a device node of another owner could not be opened with O_CREAT, as shells do.
mount -t tmpfs -o mode=755 tmpfs "$root/dev"
for node in null zero full random urandom tty; do
  : >"$root/dev/$node"
  mount --bind "/dev/$node" "$root/dev/$node"
done
ln -s /proc/self/fd "$root/dev/fd"
mkdir -p "$root/dev/shm"
mount -t proc proc "$root/proc"
mount -t tmpfs -o mode=755 tmpfs "$root/run"
mount -t tmpfs tmpfs "$root/tmp"
cp -R "$scratch/in" "$root/tmp/in"
# For the time of the installation: the host's resolver and proxy, and no service is started.
export APT_CONFIG=/tmp/in/apt.conf
: >"$scratch/resolv.conf"
if [ -e /etc/resolv.conf ]; then cat /etc/resolv.conf >"$scratch/resolv.conf"; fi
# Of systemd-resolved it is a link into /run.
resolver=$root$(chroot "$root" readlink -m /etc/resolv.conf)
mkdir -p "${resolver%/*}"
[ -e "$resolver" ] || : >"$resolver"
mount --bind "$scratch/resolv.conf" "$resolver"
printf '#!/bin/sh\nexit 101\n' >"$scratch/policy-rc.d"
chmod 755 "$scratch/policy-rc.d"
touch "$root/usr/sbin/policy-rc.d"
mount --bind "$scratch/policy-rc.d" "$root/usr/sbin/policy-rc.d"

touch "$scratch/marker"
sleep 0.02
# The layer's /boot is the folder: a file system of its own there would hide the kernel, and what is in that boots no VM.
if grep -qsE '^[^#]+[[:space:]]/boot(/|[[:space:]])' "$root/etc/fstab"; then
  sed -i -E '\,^[^#]+[[:space:]]/boot(/|[[:space:]]),d' "$root/etc/fstab"
fi
cp -R --no-preserve=ownership "$scratch/in/files/." "$root/"
code=0
chroot "$root" /bin/bash /tmp/in/install-kernel.sh </dev/null || code=$?
[ "$code" -eq 0 ] || exit "$code"
chroot "$root" /bin/bash /tmp/in/provision.sh </dev/null
chroot "$root" apt-get clean
# Building this cache takes a guest under emulation half a minute.
chroot "$root" apt-cache gencaches
chroot "$root" /bin/sh /tmp/in/list-packages.sh >"$scratch/packages"
umount "$resolver" "$root/usr/sbin/policy-rc.d" "$root/proc" "$root/tmp" "$root/run"
umount -l "$root/dev"
rm -f "$root/usr/sbin/policy-rc.d" "$root"/var/log/apt/* "$root/var/log/dpkg.log"
cp "$root/boot/vmlinuz-$release" "$scratch/vmlinuz"
cp "$root/boot/initrd.img-$release" "$scratch/initrd"
cp "$root/boot/config-$release" "$scratch/config"
# `+` for what was touched since the marker, type, mode, uid, gid, seconds, path, link target
line='%y\t%m\t%U\t%G\t%T@\t%P\t%l\n'
(cd "$root" && find . -xdev -mindepth 1 \( -newercc "$scratch/marker" -printf "+\t$line" -o -printf "=\t$line" \)) \
  >"$scratch/after"

echo '@@dkms2bin installed'
read -r _
debugfs -w -f "$scratch/commands" "$filesystem" >/dev/null 2>"$scratch/complaints"
