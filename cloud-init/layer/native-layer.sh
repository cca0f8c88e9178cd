#!/bin/bash
# Installs a kernel into a copy of an image's root folder, on the host at native speed, and writes what changed to the
# image's file system. Runs as root of a sandbox: see src/lib/sandbox.ts.
# usage: native-layer.sh IN OUT TAR RELEASE FILESYSTEM
#   IN          holds install-kernel.sh and provision.sh with their variables, files/ to copy into the root, apt.conf, dpkg
#   OUT         an empty folder
#   TAR         the image's root folder, zstd
#   FILESYSTEM  of the image, as e2fsprogs takes it: a writable copy
# Leaves in OUT: before and after (paths, see the end), packages, vmlinuz, initrd, config. Then prints `@@dkms2bin installed`
# and waits for a line; IN/commands now holds debugfs's commands, whose complaints go to OUT/complaints.
# Exit codes: install-kernel.sh's, and 1 when this host is to blame.
set -eu
# Mount, tar and cp end with codes that install-kernel.sh has too.
trap 'exit 1' ERR
set -o pipefail
export LC_ALL=C
in=$1 out=$2 tar=$3 release=$4 filesystem=$5
root=$out/root
mkdir "$root"
# In memory where there is plenty: dpkg's many small files cost a disk several times as long.
if [ "$(awk '$1 == "MemAvailable:" { print $2 }' /proc/meminfo)" -gt 4194304 ]; then
  mount -t tmpfs -o mode=755 tmpfs "$root"
fi
# By tar itself: it may leave padding unread, and in a pipe of the shell's zstd would then die of SIGPIPE, every third time.
tar -C "$root" -x -I zstd --numeric-owner -p --exclude='./dev/*' -f "$tar"
(cd "$root" && find . -xdev -mindepth 1 -printf '%y\t%P\n') >"$out/before"
# Not sticky: a device node of another owner could not be opened with O_CREAT, as shells do.
mount -t tmpfs -o mode=755 tmpfs "$root/dev"
for node in null zero full random urandom tty; do
  : >"$root/dev/$node"
  mount --bind "/dev/$node" "$root/dev/$node"
done
ln -s /proc/self/fd "$root/dev/fd"
mkdir -p "$root/dev/shm"
mount --rbind /proc "$root/proc"
mount -t tmpfs -o mode=755 tmpfs "$root/run"
mount -t tmpfs tmpfs "$root/tmp"
cp -R "$in" "$root/tmp/in"
# For the time of the installation: the host's resolver and proxy, and no service is started.
export APT_CONFIG=/tmp/in/apt.conf
: >"$out/resolv.conf"
if [ -e /etc/resolv.conf ]; then cat /etc/resolv.conf >"$out/resolv.conf"; fi
# Of systemd-resolved it is a link into /run.
resolver=$root$(chroot "$root" readlink -m /etc/resolv.conf)
mkdir -p "${resolver%/*}"
[ -e "$resolver" ] || : >"$resolver"
mount --bind "$out/resolv.conf" "$resolver"
printf '#!/bin/sh\nexit 101\n' >"$out/policy-rc.d"
chmod 755 "$out/policy-rc.d"
touch "$root/usr/sbin/policy-rc.d"
mount --bind "$out/policy-rc.d" "$root/usr/sbin/policy-rc.d"

touch "$out/marker"
sleep 0.02
# The layer's /boot is the folder: a file system of its own there would hide the kernel, and what is in that boots no VM.
if grep -qsE '^[^#]+[[:space:]]/boot(/|[[:space:]])' "$root/etc/fstab"; then
  sed -i -E '\,^[^#]+[[:space:]]/boot(/|[[:space:]]),d' "$root/etc/fstab"
fi
cp -R --no-preserve=ownership "$in/files/." "$root/"
# Whoever can change a list of sources could have its packages' scripts run: none without a signature, whatever the list says. These are
# all of apt's words for yes.
if grep -rqsEi '(trusted|allow-insecure|allow-weak)[[:space:]]*[=:][[:space:]]*(yes|true|with|on|enable|[1-9])' "$root"/etc/apt/sources.list "$root"/etc/apt/sources.list.d; then
  echo 'a list of package sources in the image takes unsigned packages' >&2
  exit 1
fi
code=0
chroot "$root" /bin/bash /tmp/in/install-kernel.sh </dev/null || code=$?
[ "$code" -eq 0 ] || exit "$code"
chroot "$root" /bin/bash /tmp/in/provision.sh </dev/null
chroot "$root" apt-get clean
# Building this cache takes a guest under emulation half a minute.
chroot "$root" apt-cache gencaches
chroot "$root" /bin/sh /tmp/in/list-packages.sh >"$out/packages"
umount "$resolver" "$root/usr/sbin/policy-rc.d" "$root/tmp" "$root/run"
umount -l "$root/dev" "$root/proc"
rm -f "$root/usr/sbin/policy-rc.d" "$root"/var/log/apt/* "$root/var/log/dpkg.log"
cp "$root/boot/vmlinuz-$release" "$out/vmlinuz"
cp "$root/boot/initrd.img-$release" "$out/initrd"
cp "$root/boot/config-$release" "$out/config"
# Whoever started this is another user. Not the marker: what changed is told by the time of its last change.
chmod a+r "$out"/{vmlinuz,initrd,config,packages}
# `+` for what was touched since the marker, type, mode, uid, gid, seconds, path, link target
line='%y\t%m\t%U\t%G\t%T@\t%P\t%l\n'
(cd "$root" && find . -xdev -mindepth 1 \( -newercc "$out/marker" -printf "+\t$line" -o -printf "=\t$line" \)) \
  >"$out/after"

echo '@@dkms2bin installed'
read -r _
debugfs -w -f "$in/commands" "$filesystem" >/dev/null 2>"$out/complaints"
