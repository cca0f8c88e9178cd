#!/bin/sh
# Runs in the new root after the packages are installed, natively and without a kernel of its own: /proc may be absent.
set -eu
here=/tmp/bootstrap
# ROOT_UUID, SUITE, EXTRA_SUITES, COMPONENTS, CONSOLE, EFI_FORMAT
. "$here/params"

# Extra suites when the sources came from mmdebstrap's own default.
for suite in $EXTRA_SUITES; do
	if ! grep -qr " $suite " /etc/apt/sources.list /etc/apt/sources.list.d 2>/dev/null; then
		uri=$(awk -v s="$SUITE" '$1 == "deb" { for (i = 3; i <= NF; i++) if ($i == s) { print $(i - 1); exit } }' \
			/etc/apt/sources.list)
		case $suite in
			*-security) uri=$(echo "$uri" | sed 's,/debian\(/*\)$,/debian-security\1,') ;;
		esac
		echo "deb $uri $suite $COMPONENTS" >>/etc/apt/sources.list
		update=yes
	fi
done
[ -z "${update-}" ] || apt-get update

# An index that was taken although it has expired would be refused by the guest's apt.
if grep -qs Check-Valid-Until /etc/apt/apt.conf.d/99mmdebstrap; then
	echo 'Acquire::Check-Valid-Until "false";' >/etc/apt/apt.conf.d/91dkms2bin-expired
fi
# The host's proxy is no business of the guest's. mmdebstrap keeps its apt options in 99mmdebstrap.
rm -f /etc/apt/apt.conf.d/99mmdebstrap /etc/dpkg/dpkg.cfg.d/99mmdebstrap
apt-get clean
# Building this cache takes a guest under emulation half a minute.
apt-cache gencaches

echo "UUID=$ROOT_UUID / ext4 defaults,noatime 0 0" >/etc/fstab
rm -f /etc/hostname /etc/resolv.conf /etc/ssh/ssh_host_*
echo localhost >/etc/hostname
# QEMU's user network answers here; cloud-init's network configuration may say otherwise.
echo 'nameserver 10.0.2.3' >/etc/resolv.conf
: >/etc/machine-id
rm -f /var/lib/dbus/machine-id
[ -e /etc/hosts ] || printf '127.0.0.1\tlocalhost\n::1\tlocalhost\n' >/etc/hosts

# cloud-init before 21.2 (bullseye has 20.4) writes ifupdown's files, newer ones networkd's.
if [ -e /usr/lib/python3/dist-packages/cloudinit/net/networkd.py ]; then
	systemctl enable systemd-networkd.service
	renderers='[networkd, eni]'
else
	renderers='[eni]'
fi
echo "system_info: { network: { renderers: $renderers } }" >/etc/cloud/cloud.cfg.d/99-dkms2bin-network.cfg

# Every suite's cloud kernel makes these links unless its postinst finds no initrd yet.
if [ ! -e /vmlinuz ] || [ ! -e /initrd.img ]; then
	kernel=$(ls /boot/vmlinuz-* | sort -V | tail -n 1)
	ln -sf "${kernel#/}" /vmlinuz
	ln -sf "boot/initrd.img-${kernel#/boot/vmlinuz-}" /initrd.img
fi

sed -i "s/@ROOT_UUID@/$ROOT_UUID/; s/@CONSOLE@/$CONSOLE/" /boot/grub/grub.cfg /etc/default/grub "$here/grub-early.cfg"
modules='part_gpt part_msdos ext2 search search_fs_uuid normal configfile linux echo test minicmd'
for format in i386-pc "$EFI_FORMAT"; do
	[ -d "/usr/lib/grub/$format" ] || continue
	mkdir -p "/boot/grub/$format"
	cp "/usr/lib/grub/$format/"*.mod "/usr/lib/grub/$format/"*.lst "/boot/grub/$format/"
done
if [ -d /boot/grub/i386-pc ]; then
	# shellcheck disable=SC2086
	grub-mkimage -O i386-pc -p /boot/grub -c "$here/grub-early.cfg" -o /boot/grub/i386-pc/core.img biosdisk $modules
	cp /usr/lib/grub/i386-pc/boot.img /boot/grub/i386-pc/boot.img
fi
# shellcheck disable=SC2086
grub-mkimage -O "$EFI_FORMAT" -p /boot/grub -c "$here/grub-early.cfg" -o "/boot/grub/$EFI_FORMAT/core.efi" fat $modules

mkdir -p /var/lib/dkms2bin
dpkg-query -W -f '${Package} ${Version}\n' | LC_ALL=C sort >/var/lib/dkms2bin/packages
