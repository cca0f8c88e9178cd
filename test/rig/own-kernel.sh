#!/bin/bash
# Builds a small kernel from Debian's source as its owner would: configuration, make bindeb-pkg. It has what a virtual machine of the
# tool and systemd need, and one module. No privilege; mirror and proxy are this host's.
# usage: own-kernel.sh FOLDER SUITE COMPILER       COMPILER is gcc or clang; prints the kernel release and its two files, image first
# One folder may be used for both: the source is kept in it.
set -euo pipefail
folder=$(realpath -m "$1") suite=$2 compiler=$3
here=$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")
mkdir -p "$folder"
. "$here/own-apt.sh"
own_apt "$folder/apt" "$suite"

if [ ! -e "$folder/source.deb" ]; then
  source=$(apt-cache depends linux-source | sed -nE 's/^ +Depends: (linux-source-[0-9.]+)$/\1/p')
  (cd "$folder" && apt-get -qq download "$source" >&2 && mv "$source"_*.deb source.deb)
fi
tree=$folder/$compiler/linux
rm -rf "$folder/$compiler"
mkdir -p "$tree"
dpkg-deb --fsys-tarfile "$folder/source.deb" | tar -xO --wildcards './usr/src/linux-source-*.tar.xz' |
  tar -xJ --strip-components 1 -C "$tree"
cd "$tree"

case $compiler in
  gcc) make=(make -j "$(nproc)") ;;
  clang) make=(make -j "$(nproc)" LLVM=1) ;;
  *) echo "own-kernel.sh: no such compiler: $compiler" >&2; exit 2 ;;
esac
cat >own.config <<'CONFIG'
CONFIG_64BIT=y
CONFIG_SMP=y
CONFIG_PRINTK=y
CONFIG_PRINTK_TIME=y
CONFIG_BUG=y
CONFIG_FUTEX=y
CONFIG_EPOLL=y
CONFIG_SIGNALFD=y
CONFIG_TIMERFD=y
CONFIG_EVENTFD=y
CONFIG_SHMEM=y
CONFIG_AIO=y
CONFIG_ADVISE_SYSCALLS=y
CONFIG_MEMBARRIER=y
CONFIG_POSIX_TIMERS=y
CONFIG_HIGH_RES_TIMERS=y
CONFIG_NO_HZ_IDLE=y
CONFIG_FILE_LOCKING=y
CONFIG_FHANDLE=y
CONFIG_INOTIFY_USER=y
CONFIG_FANOTIFY=y
CONFIG_MULTIUSER=y
CONFIG_SYSVIPC=y
CONFIG_POSIX_MQUEUE=y
CONFIG_SYSCTL=y
CONFIG_PROC_SYSCTL=y
CONFIG_KALLSYMS=y
CONFIG_KALLSYMS_ALL=y
CONFIG_MODULES=y
CONFIG_MODULE_UNLOAD=y
CONFIG_CGROUPS=y
CONFIG_CGROUP_PIDS=y
CONFIG_CGROUP_CPUACCT=y
CONFIG_CGROUP_SCHED=y
CONFIG_FAIR_GROUP_SCHED=y
CONFIG_MEMCG=y
CONFIG_NAMESPACES=y
CONFIG_USER_NS=y
CONFIG_PID_NS=y
CONFIG_NET_NS=y
CONFIG_UTS_NS=y
CONFIG_IPC_NS=y
CONFIG_SECCOMP=y
CONFIG_SECCOMP_FILTER=y
CONFIG_BLK_DEV_INITRD=y
CONFIG_RD_GZIP=y
CONFIG_RD_XZ=y
CONFIG_RD_ZSTD=y
CONFIG_RD_LZ4=y
CONFIG_BINFMT_ELF=y
CONFIG_BINFMT_SCRIPT=y
CONFIG_ACPI=y
CONFIG_PCI=y
CONFIG_PCI_MSI=y
CONFIG_TTY=y
CONFIG_VT=y
CONFIG_UNIX98_PTYS=y
CONFIG_SERIAL_8250=y
CONFIG_SERIAL_8250_CONSOLE=y
CONFIG_SERIAL_8250_PNP=y
CONFIG_VIRTIO_MENU=y
CONFIG_VIRTIO_PCI=y
CONFIG_BLOCK=y
CONFIG_BLK_DEV=y
CONFIG_VIRTIO_BLK=y
CONFIG_VIRTIO_CONSOLE=y
CONFIG_HW_RANDOM=y
CONFIG_HW_RANDOM_VIRTIO=y
CONFIG_NET=y
CONFIG_PACKET=y
CONFIG_UNIX=y
CONFIG_INET=y
CONFIG_IPV6=y
CONFIG_NETDEVICES=y
CONFIG_NET_CORE=y
CONFIG_VIRTIO_NET=y
CONFIG_DUMMY=m
CONFIG_PARTITION_ADVANCED=y
CONFIG_EFI_PARTITION=y
CONFIG_MSDOS_PARTITION=y
CONFIG_EXT4_FS=y
CONFIG_ISO9660_FS=y
CONFIG_JOLIET=y
CONFIG_VFAT_FS=y
CONFIG_NLS=y
CONFIG_NLS_CODEPAGE_437=y
CONFIG_NLS_ISO8859_1=y
CONFIG_NLS_ASCII=y
CONFIG_NLS_UTF8=y
CONFIG_AUTOFS_FS=y
CONFIG_OVERLAY_FS=y
CONFIG_PROC_FS=y
CONFIG_SYSFS=y
CONFIG_TMPFS=y
CONFIG_TMPFS_XATTR=y
CONFIG_TMPFS_POSIX_ACL=y
CONFIG_DEVTMPFS=y
CONFIG_DEVTMPFS_MOUNT=y
CONFIG_RTC_CLASS=y
CONFIG_RTC_DRV_CMOS=y
CONFIG_PVPANIC=y
CONFIG_PVPANIC_PCI=y
CONFIG_PVPANIC_MMIO=y
CONFIG_IKCONFIG=y
CONFIG_LOCALVERSION="-house"
# CONFIG_DEBUG_INFO is not set
CONFIG
{
  "${make[@]}" tinyconfig
  scripts/kconfig/merge_config.sh -m .config own.config
  "${make[@]}" olddefconfig
  # What was asked for and is not there would show as a virtual machine that does not start.
  lost=$(grep -E '^CONFIG_' own.config | grep -vxF -f .config || true)
  [ -z "$lost" ] || { echo "own-kernel.sh: not in the configuration: $lost"; exit 1; }
  "${make[@]}" bindeb-pkg KDEB_COMPRESS=xz DEBEMAIL=rig@rig.invalid DEBFULLNAME=Rig
} >&2
release=$(<include/config/kernel.release)
mkdir -p "$folder/$compiler-debs"
rm -f "$folder/$compiler-debs/"*
mv "$folder/$compiler"/linux-{image,headers}-*.deb "$folder/$compiler-debs/"
cd "$folder"
rm -rf "${folder:?}/$compiler"
echo "$release"
printf '%s\n' "$folder/$compiler-debs/"linux-image-*.deb "$folder/$compiler-debs/"linux-headers-*.deb
