#!/bin/sh
# Runs outside the new root ($1), as its root, when its configuration is there: what an image of any distro still needs.
set -eu
root=$1
RIG_KERNEL=$(chroot "$root" dpkg-query -W -f '${Package}\n' 'linux-image-[0-9]*' | head -n 1)
RIG_KERNEL=${RIG_KERNEL#linux-image-}

# The initramfs of a chroot has no device behind / to look at: MODULES=most, as in the real one. dracut, which brings an
# update-initramfs of its own, would leave out ext4.
if [ ! -x "$root/usr/sbin/mkinitramfs" ]; then
  chroot "$root" dracut --no-hostonly --add-drivers ext4 --force "/boot/initrd.img-$RIG_KERNEL" "$RIG_KERNEL"
elif [ ! -s "$root/boot/initrd.img-$RIG_KERNEL" ]; then
  chroot "$root" update-initramfs -c -k "$RIG_KERNEL"
fi

chroot "$root" systemctl enable systemd-networkd systemd-resolved ssh >/dev/null 2>&1 || true
ln -sf ../run/systemd/resolve/stub-resolv.conf "$root/etc/resolv.conf"
: >"$root/etc/machine-id"
echo localhost >"$root/etc/hostname"
printf '127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n' >"$root/etc/hosts"
rm -f "$root"/etc/ssh/ssh_host_* "$root"/var/lib/dbus/machine-id
chroot "$root" passwd -l root >/dev/null
chroot "$root" dpkg-query -W -f '${Package}\n' | sort >"$RIG_WORK/packages"
# As apt-get clean leaves them; the lists are there in no cloud image.
rm -rf "$root"/var/cache/apt/* "$root"/var/lib/apt/lists/*
