#!/bin/bash
# The same `dkms build` as in the guest, natively: in a chroot of a bootstrapped image's root folder, with the kernel's
# headers from the image's own package sources. Runs as root of a user namespace with mount and PID namespaces of its own.
# usage: native.sh SCRATCH TAR RELEASE JOBS EPOCH MODULE…
#   SCRATCH  an empty folder; the root folder is a tmpfs on it
#   TAR      the root folder, zstd
#   MODULE   a package of the distro, or the path of a folder with dkms.conf
# Then builds MODULE for each line of standard input that names one, and prints
#   @@bench built WALL USER SYSTEM NAME     seconds; its modules are in SCRATCH/built/NAME
# The rest of its output is what apt and dkms say, for standard error.
set -eu
set -o pipefail
export LC_ALL=C DEBIAN_FRONTEND=noninteractive HOME=/root PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
scratch=$1 tar=$2 release=$3 jobs=$4 epoch=$5
shift 5
exec 3>&1 >&2
root=$scratch/root
mkdir "$root" "$scratch/built"
mount -t tmpfs -o mode=755 tmpfs "$root"
tar -C "$root" -x -I zstd --numeric-owner -p --exclude='./dev/*' -f "$tar"
mount -t tmpfs -o mode=755 tmpfs "$root/dev"
for node in null zero full random urandom tty; do
  : >"$root/dev/$node"
  mount --bind "/dev/$node" "$root/dev/$node"
done
ln -s /proc/self/fd "$root/dev/fd"
mount -t proc proc "$root/proc"
mount -t tmpfs -o mode=755 tmpfs "$root/run"
mount -t tmpfs tmpfs "$root/tmp"
if [ -e /etc/resolv.conf ]; then cat /etc/resolv.conf >"$scratch/resolv.conf"; else : >"$scratch/resolv.conf"; fi
rm -f "$root/etc/resolv.conf"
cp "$scratch/resolv.conf" "$root/etc/resolv.conf"
printf '#!/bin/sh\nexit 101\n' >"$root/usr/sbin/policy-rc.d"
chmod 755 "$root/usr/sbin/policy-rc.d"
proxy=$(apt-config dump --format '%v' Acquire::http::Proxy 2>/dev/null || true)
{
  echo 'APT::Sandbox::User "root";'
  [ -z "$proxy" ] || printf 'Acquire::http::Proxy "%s";\nAcquire::https::Proxy "%s";\n' "$proxy" "$proxy"
} >"$root/etc/apt/apt.conf.d/99bench"

inside() { chroot "$root" "$@" </dev/null; }
apt=(apt-get -y --no-install-recommends -o Dpkg::Use-Pty=0 -o Dpkg::Options::=--force-unsafe-io)
wanted=("linux-headers-$release" dkms)
# The image's lists may name packages that the mirror has replaced since.
inside "${apt[@]}" install "${wanted[@]}" || { inside "${apt[@]}" update && inside "${apt[@]}" install "${wanted[@]}"; }

declare -A id
for module in "$@"; do
  case $module in
    /*)
      mkdir -p "$root/tmp/source"
      cp -R "$module/." "$root/tmp/source/"
      conf=$root/tmp/source/dkms.conf
      ;;
    *)
      # Its files without its scripts, which would build at once.
      (cd "$root/tmp" && inside sh -c 'cd /tmp && apt-get download "$1"' sh "$module")
      dpkg-deb --fsys-tarfile "$root/tmp/${module}"_*.deb | tar -C "$root" -x --keep-directory-symlink -f -
      conf=$(dpkg-deb --fsys-tarfile "$root/tmp/${module}"_*.deb | tar -t | grep -m 1 '^\./usr/src/[^/]*/dkms\.conf$')
      conf=$root/$conf
      ;;
  esac
  name=$(sed -n "s/^PACKAGE_NAME=[\"']\{0,1\}\([^\"']*\).*/\1/p" "$conf")
  version=$(sed -n "s/^PACKAGE_VERSION=[\"']\{0,1\}\([^\"']*\).*/\1/p" "$conf")
  id[$module]=$name/$version
  case $module in /*) mv "$root/tmp/source" "$root/usr/src/$name-$version" ;; esac
  mkdir -p "$root/var/lib/dkms/$name/$version/build"
  ln -sfn "/usr/src/$name-$version" "$root/var/lib/dkms/$name/$version/source"
done

export SOURCE_DATE_EPOCH=$epoch KBUILD_BUILD_USER=dkms2bin KBUILD_BUILD_HOST=dkms2bin KBUILD_BUILD_VERSION=1
KBUILD_BUILD_TIMESTAMP=$(date -u -d "@$epoch")
export KBUILD_BUILD_TIMESTAMP
echo '@@bench ready' >&3
TIMEFORMAT='%R %U %S'
while read -r module; do
  name=${id[$module]%/*} version=${id[$module]#*/}
  tree=$root/var/lib/dkms/$name/$version
  rm -rf "${tree:?}/$release" "$tree/build"
  { time inside dkms build -m "$name" -v "$version" -k "$release" -j "$jobs" >"$scratch/log" 2>&1; } 2>"$scratch/time" || {
    cat "$scratch/log" "$tree/build/make.log"
    exit 1
  }
  rm -rf "${scratch:?}/built/$name"
  mkdir "$scratch/built/$name"
  for file in "$tree/$release"/*/module/*.ko*; do
    case $file in
      *.xz) made=${file##*/} && xz -dc "$file" >"$scratch/built/$name/${made%.xz}" ;;
      *) cp "$file" "$scratch/built/$name" ;;
    esac
  done
  read -r wall user system <"$scratch/time"
  echo "@@bench built $wall $user $system $name" >&3
done
