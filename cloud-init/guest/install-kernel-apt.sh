#!/bin/bash
# Installs one exact kernel in a guest that has apt, with its headers and the DKMS toolchain or alone. Run as root,
# after lib/common.sh and lib/apt.sh.
#
# Variables (put in front by the host, quoted):
#   RELEASE             what `uname -r` shall print, e.g. 6.1.0-56-amd64
#   VARIANT             build, the default: kernel, headers and toolchain; runtime: the kernel alone, as on a target machine
#   SUITE               apt suite to resolve from (apt-get -t) when the defaults do not suffice, may be empty
#   ARCHIVE_URI         an archive of old packages to add for this kernel only, may be empty
#   ARCHIVE_SUITE       that archive's suite, e.g. bookworm
#   ARCHIVE_COMPONENTS  its components, default "main"
#   ARCHIVE_KEYRING     keyring that vouches for it, default Debian's; where the guest lacks the file, the keys that apt trusts do
#   TOOLCHAIN           packages that build a module, words with blanks between, default "dkms gcc make libc6-dev"
#   SOURCES             one-line sources to use from now on instead of the distro's own in the image; may be empty
#   PROXY               http://host:port for downloads, may be empty
#   AUTHORITIES         certificates (PEM) of further authorities that vouch for https mirrors, may be empty
#   ROOT_UUID           of the root file system, when this is not run from it
#   BUILD_PACKAGES      packages to install besides the toolchain, of the variant build; words with blanks between, may be empty
#   BUILD_PACKAGE_DIR   folder in the guest with .deb files to install as well, may be empty
#   KERNEL_PACKAGE_DIR  folder in the guest with .deb files to use instead of the archive, may be empty
#   IMAGE_PACKAGES      names of the kernel's image, the first that exists is taken; default as Debian and Ubuntu name it
#   HEADER_PACKAGES     names of what modules are built against, likewise; apt brings what it depends on
#   KERNEL_SOURCES      lines `deb URL SUITE COMPONENT…`: repositories of the kernel, on top of the distro's and for the time of this
#                       script; may be empty
#   KERNEL_KEY          keyring that vouches for them, in base64; without one nobody does
#
# Result lines: @@dkms2bin KEY VALUE with KEY one of
#   image-package, image-version, headers-version, gcc-version, dkms-version, vmlinuz, initrd, root-uuid, cmdline,
#   kernel-compiler (what the kernel was built with, where that is not the distro's gcc), note (something to tell the user),
#   near (a release that exists, when RELEASE was not found), error (one line, on failure);
#   of the variant runtime, unless the package sources lack the headers: toolchain PACKAGES KIB BYTES, what the headers and dkms
#   would take with all that apt would install along: packages, installed size, download
#
# Exit codes (lib/exit-codes.sh): DONE INPUT NOT_FOUND NETWORK DISK_FULL PACKAGE_MANAGER INITRAMFS
RELEASE=${RELEASE:-} VARIANT=${VARIANT:-build} SUITE=${SUITE:-} ARCHIVE_URI=${ARCHIVE_URI:-} ARCHIVE_SUITE=${ARCHIVE_SUITE:-}
ARCHIVE_COMPONENTS=${ARCHIVE_COMPONENTS:-main} ARCHIVE_KEYRING=${ARCHIVE_KEYRING:-/usr/share/keyrings/debian-archive-keyring.gpg}
TOOLCHAIN=${TOOLCHAIN:-dkms gcc make libc6-dev} SOURCES=${SOURCES:-} ROOT_UUID=${ROOT_UUID:-}
KERNEL_PACKAGE_DIR=${KERNEL_PACKAGE_DIR:-} BUILD_PACKAGES=${BUILD_PACKAGES:-} BUILD_PACKAGE_DIR=${BUILD_PACKAGE_DIR:-}
IMAGE_PACKAGES=${IMAGE_PACKAGES:-linux-image-$RELEASE linux-image-$RELEASE-unsigned linux-image-unsigned-$RELEASE}
HEADER_PACKAGES=${HEADER_PACKAGES:-linux-headers-$RELEASE} KERNEL_SOURCES=${KERNEL_SOURCES:-} KERNEL_KEY=${KERNEL_KEY:-}

check_release
check_url ARCHIVE_URI "$ARCHIVE_URI"
check_words SUITE "$SUITE"
check_words ARCHIVE_SUITE "$ARCHIVE_SUITE"
check_words ARCHIVE_COMPONENTS "$ARCHIVE_COMPONENTS"
check_sources SOURCES "$SOURCES"
check_sources KERNEL_SOURCES "$KERNEL_SOURCES"
case $KERNEL_KEY in *[!A-Za-z0-9+/=]*) fail "$E_INPUT" 'KERNEL_KEY is not base64' ;; esac
case $IMAGE_PACKAGES$HEADER_PACKAGES in *[!A-Za-z0-9.+~_\ -]*) fail "$E_INPUT" 'a kernel package name has a character that none has' ;; esac
check_path ARCHIVE_KEYRING "$ARCHIVE_KEYRING"
case $ROOT_UUID in *[!0-9A-Fa-f-]*) fail "$E_INPUT" "ROOT_UUID is not a file system's: '$ROOT_UUID'" ;; esac
case $VARIANT in build | runtime) ;; *) fail "$E_INPUT" "VARIANT is neither build nor runtime: '$VARIANT'" ;; esac
case $TOOLCHAIN$BUILD_PACKAGES in *[!a-z0-9.+\ -]*) fail "$E_INPUT" 'a package name has a character that none has' ;; esac
case " $IMAGE_PACKAGES $HEADER_PACKAGES $TOOLCHAIN $BUILD_PACKAGES" in *' -'*) fail "$E_INPUT" 'a package name begins with a dash' ;; esac

work=$(mktemp -d) || fail "$E_DISK_FULL" 'no temporary folder'
list=/etc/apt/sources.list.d/dkms2bin-archive.list
kernel_list=/etc/apt/sources.list.d/dkms2bin-kernel.list kernel_key=/etc/apt/dkms2bin-kernel.gpg
kernel_pin=/etc/apt/preferences.d/dkms2bin-kernel
updates=/etc/initramfs-tools/update-initramfs.conf updates_were=
cleanup() {
  rm -rf "$work"
  rm -f "$list" "$kernel_list" "$kernel_key" "$kernel_pin" /etc/dpkg/dpkg.cfg.d/dkms2bin-tmp
  [ -z "$updates_were" ] || printf '%s\n' "$updates_were" >"$updates"
}
at_exit cleanup
log=$work/apt.log
trust_authorities
# What apt asks for is what it gets: no newer one of the image's own kernel, which is of the same source package.
apt_opts+=(-o Dpkg::Options::=--force-confdef -o Dpkg::Options::=--force-confold -o APT::Get::Assume-Yes=true
  -o APT::Get::Upgrade-By-Source-Package=false)

# Installs the packages; refreshes the lists once when they are missing or stale. Returns 1 if they do not exist.
apt_install() {
  try apt-get "${apt_opts[@]}" install "$@" && return 0
  # Only now: -t would take the toolchain from that suite (backports) as well.
  if [ -n "$SUITE" ] && [ "$outcome" = missing ]; then once apt-get "${apt_opts[@]}" install -t "$SUITE" "$@" && return 0; fi
  [ "$outcome" = missing ] || give_up
  return 1
}
package_known() { apt-cache show "$1" 2>/dev/null | grep -q "^Package: "; }
installed_version() { dpkg-query -W -f '${db:Status-Abbrev} ${Version}\n' "$1" 2>/dev/null | sed -n 's/^ii *//p'; }

# --- mirrors, in place of those that the image knows --------------------------------------------------------------------
signed=
[ ! -f "$ARCHIVE_KEYRING" ] || signed=" signed-by=$ARCHIVE_KEYRING"
if [ -n "$SOURCES" ]; then
  rm -f /etc/apt/sources.list /etc/apt/sources.list.d/{debian,ubuntu}.{list,sources}
  sed "s,^deb ,deb ${signed:+[${signed# }] }," <<<"$SOURCES" >/etc/apt/sources.list.d/dkms2bin-distro.list
fi

# What the distro has as well stays the distro's: the repository of the kernel is asked last.
if [ -n "$KERNEL_SOURCES" ]; then
  option='trusted=yes'
  if [ -n "$KERNEL_KEY" ]; then
    base64 -d <<<"$KERNEL_KEY" >"$kernel_key" || fail "$E_INPUT" 'KERNEL_KEY cannot be read'
    chmod 644 "$kernel_key"
    option=signed-by=$kernel_key
  fi
  sed "s,^deb ,deb [$option] ," <<<"$KERNEL_SOURCES" >"$kernel_list"
  while read -r _ url _; do
    host=${url#*://} host=${host%%/*} host=${host##*@} host=${host%%:*}
    if [ -n "$host" ] && ! grep -qsF "//$host" <<<"$SOURCES"; then printf 'Package: *\nPin: origin "%s"\nPin-Priority: 100\n\n' "$host"; fi
  done <<<"$KERNEL_SOURCES" >"$kernel_pin"
fi

# --- no upkeep in a machine that lives for minutes: none runs now, none at a later boot --------------------------------
upkeep=(apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer fstrim.timer logrotate.timer man-db.timer
  e2scrub_reap.service unattended-upgrades.service)
[ ! -d /run/systemd/system ] || systemctl stop --quiet "${upkeep[@]}" 2>/dev/null
mkdir -p /etc/systemd/system
for unit in "${upkeep[@]}"; do ln -sf /dev/null "/etc/systemd/system/$unit"; done
forget_esp
export APT_LISTCHANGES_FRONTEND=none

# --- cheap work only: each of these costs seconds to minutes under emulation ---------------------------------------
mkdir -p /etc/dpkg/dpkg.cfg.d
printf 'force-unsafe-io\n' >/etc/dpkg/dpkg.cfg.d/dkms2bin-tmp
echo 'man-db man-db/auto-update boolean false' | debconf-set-selections 2>/dev/null
rm -f /var/lib/man-db/auto-update
for hook in /etc/kernel/postinst.d/zz-update-grub /etc/kernel/postrm.d/zz-update-grub /etc/kernel/postinst.d/apt-auto-removal \
  /etc/kernel/postinst.d/unattended-upgrades; do
  if [ -f "$hook" ]; then chmod -x "$hook"; fi
done
# A kernel's own initramfs is made all the same; those that are there are not made again for every package that would like it.
if grep -qs '^update_initramfs=yes' "$updates"; then
  updates_were=$(<"$updates")
  sed -i 's/^update_initramfs=.*/update_initramfs=no/' "$updates"
fi

# --- dkms must not build by itself, nor sign with a key of its own (two builds would differ) --------------------------
image='' headers='' toolchain=()
if [ "$VARIANT" = build ]; then
  mkdir -p /etc/dkms/framework.conf.d
  : >/etc/dkms/no-autoinstall
  printf '# dkms2bin: modules are signed outside the guest.\nsign_file="/nonexistent"\n' >/etc/dkms/framework.conf.d/dkms2bin.conf
  headers=${HEADER_PACKAGES%% *}
  for package in $TOOLCHAIN $BUILD_PACKAGES; do
    [ -n "$(installed_version "$package")" ] || toolchain+=("$package")
  done
fi
if [ -n "$BUILD_PACKAGE_DIR" ]; then
  for file in "$BUILD_PACKAGE_DIR"/*.deb; do
    dpkg-deb -f "$file" Package >/dev/null || fail "$E_INPUT" "not a Debian package: ${file##*/}"
    toolchain+=("$(readlink -f "$file")")
  done
fi
# first_of TEST NAME…: prints the first name that passes.
first_of() { local test=$1 name; shift; for name; do if "$test" "$name"; then echo "$name"; return 0; fi; done; return 1; }
is_installed() { [ -n "$(installed_version "$1")" ]; }
# shellcheck disable=SC2086 # lists of names
headers_known() { [ -z "$headers" ] || headers=$(first_of package_known $HEADER_PACKAGES) || { headers=${HEADER_PACKAGES%% *}; return 1; }; }
# shellcheck disable=SC2086
headers_installed() { [ -z "$headers" ] || first_of is_installed $HEADER_PACKAGES >/dev/null; }

# --- which packages --------------------------------------------------------------------------------------------------
wanted=()
if [ -n "$KERNEL_PACKAGE_DIR" ]; then
  [ -d "$KERNEL_PACKAGE_DIR" ] || fail "$E_INPUT" "KERNEL_PACKAGE_DIR is not a folder: $KERNEL_PACKAGE_DIR"
  given_headers=''
  for file in "$KERNEL_PACKAGE_DIR"/*.deb; do
    [ -f "$file" ] || continue
    package=$(dpkg-deb -f "$file" Package) || fail "$E_NOT_FOUND" "not a Debian package: $file"
    case " $IMAGE_PACKAGES " in *" $package "*) image=${image:-$package} ;; esac
    case " $HEADER_PACKAGES " in *" $package "*) given_headers=$package ;; esac
    case $package in
      *-dbg | *-dbgsym | linux-libc-dev) continue ;;
      *-headers-* | linux-kbuild-* | linux-compiler-*) [ -n "$headers" ] || continue ;;
    esac
    wanted+=("$(readlink -f "$file")")
  done
  if [ -z "$image" ]; then
    # shellcheck disable=SC2086
    image=$(first_of package_known $IMAGE_PACKAGES || { apt_update >&2; first_of package_known $IMAGE_PACKAGES; }) ||
      fail "$E_NOT_FOUND" "${IMAGE_PACKAGES// / or }, the kernel itself, is missing among the kernel package files"
    wanted+=("$image")
  fi
  if [ -n "$headers" ] && [ -n "$given_headers" ]; then headers=$given_headers
  elif [ -n "$headers" ]; then
    headers_known || { apt_update; headers_known; } ||
      fail "$E_NOT_FOUND" "${HEADER_PACKAGES// / or }, what modules are built against, is missing among the kernel package files"
    wanted+=("$headers")
  fi
else
  # shellcheck disable=SC2086
  image=$(first_of is_installed $IMAGE_PACKAGES) || image=
  if [ -n "$ARCHIVE_URI" ] && { [ -z "$image" ] || ! headers_installed; }; then
    printf 'deb [check-valid-until=no%s] %s %s %s\n' "$signed" "$ARCHIVE_URI" "$ARCHIVE_SUITE" "$ARCHIVE_COMPONENTS" >"$list"
    # shellcheck disable=SC2086
    if ! first_of package_known $IMAGE_PACKAGES >/dev/null || ! headers_known; then
      apt_update
    fi
  fi
  pick_image() {
    [ -n "$image" ] && return 0
    # shellcheck disable=SC2086
    image=$(first_of package_known $IMAGE_PACKAGES)
  }
  if ! pick_image || ! headers_known; then
    apt_update
    pick_image
  fi
  if [ -z "$image" ] || ! headers_known; then
    # The neighbours of the same flavour, in version order.
    first=${IMAGE_PACKAGES%% *} head=${first%%"$RELEASE"*} tail=${first#*"$RELEASE"}
    { echo "$RELEASE"; apt-cache pkgnames "$head" | sed -nE "s/^$head([0-9]+\.[0-9]+\.[0-9].*)$tail\$/\1/p" | grep -vE -- '-(dbg|unsigned|template)$'; } |
      grep -- "[0-9]-${RELEASE##*[0-9]-}\$" | sort -uV | grep -xF -B 5 -A 5 -- "$RELEASE" | grep -vxF -- "$RELEASE" |
      while read -r near; do say near "$near"; done
    if [ -n "$image" ]; then fail "$E_NOT_FOUND" "$image exists but $headers does not"; fi
    fail "$E_NOT_FOUND" "no ${IMAGE_PACKAGES%% *} in the guest's package sources"
  fi
  wanted=("$image" ${headers:+"$headers"})
fi

# A small initramfs: most of the time that it takes under emulation goes with its size. The next boot may bring other virtio devices
# than this one (direct kernel boot, another disk bus). An image that brings a list of its own (the bootstrapped one) keeps it.
drivers=(virtio_pci virtio_blk virtio_scsi virtio_net virtio_console virtio_rng virtio_mmio sd_mod ext4)
# dracut brings an update-initramfs, too: mkinitramfs alone tells the two apart.
if command -v mkinitramfs >/dev/null || ! command -v dracut >/dev/null; then
  if [ ! -e /etc/initramfs-tools/conf.d/dkms2bin ]; then
    # MODULES=dep looks at the disk we run from: a chroot or a foreign root has no device behind / that it could look at.
    choice=dep
    [ -b "$(findmnt -no SOURCE / 2>/dev/null)" ] || choice=list
    mkdir -p /etc/initramfs-tools/conf.d
    printf 'MODULES=%s\nCOMPRESS=gzip\nCOMPRESSLEVEL=1\n' "$choice" >/etc/initramfs-tools/conf.d/dkms2bin
    [ "$choice" = dep ] || echo FSTYPE=ext4 >>/etc/initramfs-tools/conf.d/dkms2bin
    touch /etc/initramfs-tools/modules
    for module in "${drivers[@]}" crc32c crc32c_generic; do
      grep -qx "$module" /etc/initramfs-tools/modules || echo "$module" >>/etc/initramfs-tools/modules
    done
  fi
elif [ ! -e /etc/dracut.conf.d/dkms2bin.conf ]; then
  # Not by what this machine has: it may be none. dracut's own list of file systems and drivers is hundreds long.
  mkdir -p /etc/dracut.conf.d
  cat >/etc/dracut.conf.d/dkms2bin.conf <<CONF
hostonly="no"
compress="gzip"
drivers=" ${drivers[*]} "
filesystems=" ext4 "
omit_dracutmodules+=" plymouth network nfs iscsi crypt dm lvm mdraid multipath btrfs "
CONF
fi

# Ubuntu has the less common modules in a package of their own; asking costs seconds, and Debian has none.
case $RELEASE in
  *-amd64 | *-arm64) ;;
  *)
    if [ -z "$KERNEL_PACKAGE_DIR" ]; then
      for package in "linux-modules-extra-$RELEASE" "linux-image-extra-$RELEASE"; do
        if package_known "$package"; then wanted+=("$package"); fi
      done
    fi ;;
esac

# Of other kernels apt is to bring nothing newer along.
dpkg-query -W -f '${db:Status-Abbrev} ${Package}\n' 'linux-image-*' 2>/dev/null | sed -n 's/^ii *//p' | grep -vxF -- "$image" |
  sed 's/$/ hold/' | dpkg --set-selections

echo "installing ${wanted[*]} ${toolchain[*]-}"
apt_install "${wanted[@]}" ${toolchain[@]+"${toolchain[@]}"} || give_up

# --- the compiler that the kernel was built with --------------------------------------------------------------------------
install_gcc() {
  came=gcc-$1
  if ! is_installed "$came" && package_known "$came"; then
    echo "installing $came"
    apt_install "$came" || true
  fi
  is_installed "$came" || return 1
  ln -sf "$(command -v "$came")" /usr/local/bin/gcc
}
install_clang() {
  local major=$1 tool tools=(clang lld llvm)
  if [ -n "$major" ] && package_known "clang-$major" && package_known "lld-$major"; then tools=("clang-$major" "lld-$major" "llvm-$major"); fi
  came=${tools[*]}
  echo "installing $came"
  apt_install "${tools[@]}" || fail "$E_NOT_FOUND" "the kernel was built with $kernel_compiler, and the package sources have no clang"
  if [ -n "$major" ] && [ "${tools[0]}" != clang ]; then
    for tool in clang ld.lld llvm-ar llvm-nm llvm-objcopy llvm-objdump llvm-readelf llvm-strip; do
      if [ -x "/usr/bin/$tool-$major" ]; then ln -sf "/usr/bin/$tool-$major" "/usr/local/bin/$tool"; fi
    done
  fi
  command -v ld.lld >/dev/null && command -v clang >/dev/null ||
    fail "$E_NOT_FOUND" "the kernel was built with $kernel_compiler, and $came bring no clang and ld.lld"
}
if [ "$VARIANT" = build ]; then want_compiler; fi

# dkms before 3.0 has no framework.conf.d, and before 3.0.4 no sign_file: there it signs only with keys an admin made.
if [ -f /etc/dkms/framework.conf ] && ! grep -qs 'framework.conf.d' "$(command -v dkms)"; then
  grep -q '^sign_file=' /etc/dkms/framework.conf || printf '\n# dkms2bin\nsign_file="/nonexistent"\n' >>/etc/dkms/framework.conf
fi

vmlinuz=/boot/vmlinuz-$RELEASE initrd=/boot/initrd.img-$RELEASE
[ -f "$vmlinuz" ] || fail "$E_NOT_FOUND" "$image brought no $vmlinuz"
[ -z "$headers" ] || [ -e "/lib/modules/$RELEASE/build/Makefile" ] || fail "$E_NOT_FOUND" "$headers brought no /lib/modules/$RELEASE/build"
if [ ! -s "$initrd" ]; then
  if ! command -v mkinitramfs >/dev/null && ! command -v dracut >/dev/null; then
    apt_install initramfs-tools || fail "$E_INITRAMFS" 'no initramfs-tools in the package sources'
  fi
  maker=(update-initramfs -c -k "$RELEASE")
  command -v mkinitramfs >/dev/null || maker=(dracut --force "$initrd" "$RELEASE")
  [ -s "$initrd" ] || "${maker[@]}" 2>&1 | sed -u '$a\'
  [ -s "$initrd" ] || fail "$E_INITRAMFS" "${maker[0]} failed for $RELEASE"
fi
[ -e "/lib/modules/$RELEASE/modules.dep" ] || depmod "$RELEASE"

# What headers and dkms would take, as a person installs them: with what they recommend, as is every distro's default.
toolchain_cost() {
  local plan replaced headers
  # shellcheck disable=SC2086
  headers=$(first_of package_known $HEADER_PACKAGES) || return 0
  plan=$(apt-get -s -o APT::Install-Recommends=true install dkms "$headers" 2>/dev/null | sed -n 's/^Inst //p')
  [ -n "$plan" ] || return 0
  # NAME [OLD VERSION] (NEW VERSION …): a package that is replaced costs the difference.
  replaced=$(sed -nE 's/^([^ ]+) \[.*/\1/p' <<<"$plan")
  {
    # shellcheck disable=SC2046
    apt-cache show $(sed -E 's/^([^ ]+) (\[[^]]*\] )?\(([^ ]+) .*/\1=\3/' <<<"$plan")
    # shellcheck disable=SC2086
    [ -z "$replaced" ] || dpkg-query -W -f 'Replaced-Size: ${Installed-Size}\n' $replaced
  } | awk '
    /^Package:/ { name = $2 } /^Version:/ { version = $2 } /^Installed-Size:/ { size = $2 } /^Size:/ { download = $2 }
    # Two sources may name the same package.
    /^$/ && !seen[name " " version]++ { packages++; kib += size; bytes += download }
    /^Replaced-Size:/ { kib -= $2 }
    END { printf "%d %.0f %.0f", packages, kib, bytes }'
}

say image-package "$image"
say image-version "$(installed_version "$image")"
say headers-version "$(installed_version "$headers")"
say gcc-version "$( (readlink -f "$(command -v gcc)"; gcc -dumpfullversion) 2>/dev/null | tr '\n' ' ' | sed 's/ *$//')"
say dkms-version "$(installed_version dkms)"
say kernel-compiler "$kernel_compiler"
say vmlinuz "$vmlinuz"
say initrd "$initrd"
# In a chroot findmnt would tell of the host.
uuid=${ROOT_UUID:-$(sed -nE 's,^UUID=([^ ]+)[[:space:]]+/[[:space:]].*,\1,p' /etc/fstab 2>/dev/null)}
say root-uuid "${uuid:-$(findmnt -no UUID / 2>/dev/null)}"
if [ "$VARIANT" = runtime ]; then
  cost=$(toolchain_cost)
  [ -z "$cost" ] || say toolchain "$cost"
fi
say cmdline "$(sed 's/BOOT_IMAGE=[^ ]* *//' /proc/cmdline 2>/dev/null)"
sync
