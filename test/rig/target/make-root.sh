#!/bin/bash
# Makes the root folder of a Debian 12 machine with dkms, initramfs-tools and the last but one cloud kernel, and lays into it what
# tests install there: the last kernel and a DKMS package in /debs, dracut in /dracut. No privilege: files of an ordinary user's get
# ids of /etc/subuid.
# usage: make-root.sh MIRROR SECURITY-MIRROR OUT
# Leaves OUT/root; its /releases names the two kernels, a line each.
set -euo pipefail
export LC_ALL=C
mirror=$1 security=$2 out=$3
as_root=()
if [ "$(id -u)" -ne 0 ]; then as_root=(unshare --user --map-root-user --map-auto); fi

cat >"$out/fill.sh" <<'FILL'
set -eu
kernels=$(apt-cache search --names-only '^linux-image-6\.1\.0-[0-9]+-cloud-amd64$' | cut -d' ' -f1 | sort -V | tail -n 2)
old=$(echo "$kernels" | head -n 1) new=$(echo "$kernels" | tail -n 1)
get() { apt-get --yes --quiet --no-install-recommends "$@"; }
get install "$old" "linux-headers-${old#linux-image-}"
get install --download-only "$new" "linux-headers-${new#linux-image-}" acpi-call-dkms
mkdir /debs && mv /var/cache/apt/archives/*.deb /debs
get install --download-only dracut
mkdir /dracut && mv /var/cache/apt/archives/*.deb /dracut
printf '%s\n' "${old#linux-image-}" "${new#linux-image-}" >/releases
printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d
chmod 755 /usr/sbin/policy-rc.d
FILL

mmdebstrap --quiet --variant=apt --include=dkms,gcc,make,libc6-dev,kmod,initramfs-tools,zstd \
  --dpkgopt=force-unsafe-io --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/locale/*' \
  --customize-hook="copy-in $out/fill.sh /" --customize-hook='chroot "$1" sh /fill.sh && rm "$1/fill.sh"' \
  --skip=cleanup/apt/lists bookworm "$out/root.tar" \
  "deb $mirror bookworm main" "deb $mirror bookworm-updates main" "deb $security bookworm-security main" >&2
"${as_root[@]}" bash -c 'mkdir "$1/root" && tar -C "$1/root" -x --numeric-owner -p --exclude="./dev/*" -f "$1/root.tar" && chmod 755 "$1/root"' - "$out"
rm "$out/root.tar" "$out/fill.sh"
