#!/bin/bash
# Installs one exact kernel in a guest that has dnf, yum or zypper, with its headers and the DKMS toolchain or alone. Run as
# root, after lib/common.sh. install-kernel-apt.sh is its twin: same result lines, same exit codes.
#
# Variables (put in front by the host, quoted; lists are words with blanks between):
#   RELEASE             what `uname -r` shall print, e.g. 5.14.0-503.11.1.el9_5.x86_64
#   VARIANT             build, the default: kernel, headers and toolchain; runtime: the kernel alone
#   PACKAGE_MANAGER     dnf (yum where there is no dnf) or zypper
#   IMAGE_PACKAGES      names of the image, the first that exists is taken
#   MODULE_PACKAGES     packages that must come with it
#   EXTRA_PACKAGES      packages that are taken where they exist
#   HEADER_PACKAGES     what modules are built against, all of them
#   HEADER_CHOICE       not empty: the first of HEADER_PACKAGES that exists is taken
#   KERNEL_REPOS        repositories of the kernel, on top of all others and for the time of this script: lines NAME=URL; may be empty
#   KERNEL_KEY          armored key that has signed their packages, in base64; without one nobody has
#   VERSION_PREFIX      of zypper: the packages' versions begin so, and a dot and a build counter follow; names have no
#                       version then. Of dnf: empty, names are NAME-VERSION-RELEASE.ARCH
#   TOOLCHAIN           compiler and dkms, default "dkms gcc make rpm-build elfutils-libelf-devel" (zypper: libelf-devel)
#   TOOLCHAIN_REPO      a package that brings the repository of dkms (epel-release), may be empty
#   TOOLCHAIN_NEEDS     name of the guest's own repository that it needs besides, and that is off (crb), may be empty
#   REPOS               repositories to use instead of the guest's own: lines NAME=URL, or NAME!=URL for one whose packages nobody
#                       signed; may be empty
#   PROXY               http://host:port for downloads, may be empty
#   BUILD_PACKAGES      packages to install besides the toolchain, of the variant build; may be empty
#   AUTHORITIES         certificates (PEM) of further authorities that vouch for https repositories, may be empty
#   KERNEL_PACKAGE_DIR  folder in the guest with .rpm files to use first, may be empty. They are not asked for a signature:
#                       the host has checked what it could
#
# Result lines: @@dkms2bin KEY VALUE with KEY one of
#   image-package, image-version, headers-version, gcc-version, dkms-version, vmlinuz, initrd, root-uuid, cmdline,
#   note (something to tell the user), near (a release that exists, when RELEASE was not found), error (one line, on failure);
#   of the variant runtime with dnf 4, unless the package sources lack the headers or dkms: toolchain PACKAGES KIB BYTES, see
#   install-kernel-apt.sh
#
# Exit codes (lib/exit-codes.sh): DONE INPUT NOT_FOUND NETWORK DISK_FULL PACKAGE_MANAGER INITRAMFS
RELEASE=${RELEASE:-} VARIANT=${VARIANT:-build} PACKAGE_MANAGER=${PACKAGE_MANAGER:-dnf}
IMAGE_PACKAGES=${IMAGE_PACKAGES:-} MODULE_PACKAGES=${MODULE_PACKAGES:-} EXTRA_PACKAGES=${EXTRA_PACKAGES:-}
HEADER_PACKAGES=${HEADER_PACKAGES:-} VERSION_PREFIX=${VERSION_PREFIX:-} TOOLCHAIN_REPO=${TOOLCHAIN_REPO:-}
TOOLCHAIN_NEEDS=${TOOLCHAIN_NEEDS:-} REPOS=${REPOS:-} PROXY=${PROXY:-} KERNEL_PACKAGE_DIR=${KERNEL_PACKAGE_DIR:-}
KERNEL_REPOS=${KERNEL_REPOS:-} KERNEL_KEY=${KERNEL_KEY:-} HEADER_CHOICE=${HEADER_CHOICE:-}
# How often a passing fault is tried, and the seconds between.
TRIES=${TRIES:-3} PAUSE=${PAUSE:-5}

check_release
check_url PROXY "$PROXY"
while IFS= read -r line; do
  [ -n "$line" ] || continue
  case ${line%%=*} in '' | *[!A-Za-z0-9._!-]*) fail "$E_INPUT" "REPOS names a repository that cannot be: '$line'" ;; esac
  check_url REPOS "${line#*=}"
done <<<"$REPOS"
case $KERNEL_KEY in *[!A-Za-z0-9+/=]*) fail "$E_INPUT" 'KERNEL_KEY is not base64' ;; esac
case $VARIANT in build | runtime) ;; *) fail "$E_INPUT" "VARIANT is neither build nor runtime: '$VARIANT'" ;; esac
case " $IMAGE_PACKAGES $MODULE_PACKAGES $EXTRA_PACKAGES $HEADER_PACKAGES ${TOOLCHAIN-} ${BUILD_PACKAGES-} $TOOLCHAIN_REPO $TOOLCHAIN_NEEDS $VERSION_PREFIX" in
  *[!A-Za-z0-9.+~_\ ^-]*) fail "$E_INPUT" 'a package name has a character that none has' ;;
  *' -'*) fail "$E_INPUT" 'a package name begins with a dash' ;;
esac
[ -n "$IMAGE_PACKAGES" ] || fail "$E_INPUT" 'IMAGE_PACKAGES is empty'

case $PACKAGE_MANAGER in
  dnf)
    if command -v dnf >/dev/null; then manager=dnf; elif command -v yum >/dev/null; then manager=yum
    else fail "$E_PACKAGE_MANAGER" 'neither dnf nor yum in this guest'; fi
    repo_dir=/etc/yum.repos.d libelf=elfutils-libelf-devel ;;
  zypper)
    command -v zypper >/dev/null || fail "$E_PACKAGE_MANAGER" 'no zypper in this guest'
    [ -n "$VERSION_PREFIX" ] || fail "$E_INPUT" 'VERSION_PREFIX is empty'
    manager=zypper repo_dir=/etc/zypp/repos.d libelf=libelf-devel ;;
  *) fail "$E_INPUT" "PACKAGE_MANAGER is neither dnf nor zypper: '$PACKAGE_MANAGER'" ;;
esac
TOOLCHAIN="${TOOLCHAIN:-dkms gcc make rpm-build $libelf} ${BUILD_PACKAGES:-}"

work=$(mktemp -d) || fail "$E_DISK_FULL" 'no temporary folder'
log=$work/log trusted='' hidden=$repo_dir/.dkms2bin-hidden repo_file=$repo_dir/dkms2bin.repo
anchor=/etc/pki/trust/anchors/dkms2bin.pem kernel_repo=$repo_dir/dkms2bin-kernel.repo
cleanup() {
  rm -rf "$work"
  rm -f "$kernel_repo"
  if [ -f "$anchor" ]; then rm "$anchor" && update-ca-certificates >/dev/null 2>&1; fi
  if [ -d "$hidden" ]; then
    rm -f "$repo_file"
    find "$hidden" -type f -exec mv -t "$repo_dir" {} +
    rmdir "$hidden"
  fi
}
at_exit cleanup

# --- mirrors and proxy, for the time of this script -----------------------------------------------------------------
if [ -n "$REPOS" ]; then
  # The keys that the image brought vouch for the packages; of the metadata some distros sign none.
  keys=$(find /etc/pki/rpm-gpg /usr/lib/rpm/gnupg/keys -maxdepth 1 -type f 2>/dev/null | sed 's,^,file://,' | tr '\n' ' ')
  text=
  while IFS='=' read -r name url; do
    check=1
    case $name in *'!') name=${name%!} check=0 ;; esac
    case $name in '') continue ;; *[!a-z0-9._-]*) fail "$E_INPUT" "not a repository's name: '$name'" ;; esac
    case $url in http://* | https://*) ;; *) fail "$E_INPUT" "not a repository's URL: '$url'" ;; esac
    text+="[dkms2bin-$name]"$'\n'"name=$name"$'\n'"baseurl=$url"$'\n'
    text+=$'enabled=1\nrepo_gpgcheck=0\nskip_if_unavailable=0\n'"gpgcheck=$check"$'\n'
    if [ -n "$keys" ]; then text+="gpgkey=$keys"$'\n'; fi
  done <<<"$REPOS"
  mkdir -p "$hidden"
  find "$repo_dir" -maxdepth 1 -type f -name '*.repo' -exec mv -t "$hidden" {} +
  printf '%s' "$text" >"$repo_file"
fi
if [ -n "$KERNEL_REPOS" ]; then
  check=0 keys=
  if [ -n "$KERNEL_KEY" ]; then
    base64 -d <<<"$KERNEL_KEY" >"$work/kernel.asc" || fail "$E_INPUT" 'KERNEL_KEY cannot be read'
    check=1 keys="gpgkey=file://$work/kernel.asc"$'\n'
  fi
  text=
  while IFS='=' read -r name url; do
    case $name in '') continue ;; *[!a-z0-9._-]*) fail "$E_INPUT" "not a repository's name: '$name'" ;; esac
    check_url KERNEL_REPOS "$url"
    text+="[dkms2bin-kernel-$name]"$'\n'"name=$name"$'\n'"baseurl=$url"$'\n'"gpgcheck=$check"$'\n'
    text+=$'enabled=1\nrepo_gpgcheck=0\nskip_if_unavailable=0\n'"$keys"
  done <<<"$KERNEL_REPOS"
  mkdir -p "$repo_dir"
  printf '%s' "$text" >"$kernel_repo"
fi
if [ -n "$PROXY" ]; then export http_proxy=$PROXY https_proxy=$PROXY; fi

# --- what common.sh asks of a package manager --------------------------------------------------------------------------
judge_log() {
  if grep -qiE 'No space left on device|needs [0-9.]+ *[KMG]?B? (more space )?on the|Insufficient space|disk space' "$log"; then outcome=space
  # dnf goes on without a repository that does not answer, and then misses what only that one has.
  elif grep -qiE 'Failed to (download|synchronize|retrieve) (metadata|cache)|Ignoring repositories|Cannot retrieve|repomd.xml' "$log"; then outcome=network
  elif grep -qiE 'Unable to find a match|No match for argument|No package .* available|Nothing to do|nothing provides|No provider of|not found in package names|Problem: .*conflicting requests|has inferior architecture' "$log"; then outcome=missing
  elif grep -qiE 'Curl error|Cannot download|Failed to download|All mirrors were tried|No more mirrors|Timeout (was reached|exceeded)|timed out|Could not resolve|Connection (refused|reset)|Status code: 5[0-9][0-9]|HTTP (response|Error)[: ]*5[0-9][0-9]|Error 5[0-9][0-9]|checksum (does not|doesn.t) match|Downloading successful, but checksum|Digest verification failed|wrong digest|Valid metadata not found|repomd.xml: .*(404|Not Found)|Cannot retrieve (repository )?metadata|Failed to (retrieve|synchronize|provide)' "$log"; then outcome=network
  else outcome=other; fi
}
judge() {
  case $manager:$1 in
    # 100 to 103: done, and something should be restarted, or the like. 104: no such package. 106: a repository was skipped.
    *:0 | zypper:10[0-3]) outcome=ok ;;
    zypper:104) outcome=missing ;;
    zypper:106) outcome=network ;;
    *) judge_log ;;
  esac
}
# A passing fault is met with a pause and fresh metadata.
worth_again() {
  if [ "$outcome" != network ] || [ "$1" -ge "$TRIES" ]; then return 1; fi
  echo "try $1 of $TRIES failed, waiting $(($1 * PAUSE)) s"
  sleep $(($1 * PAUSE))
  case $manager in
    zypper) zypper --non-interactive clean --metadata >/dev/null 2>&1 ;;
    *) "$manager" -q clean expire-cache >/dev/null 2>&1 ;;
  esac
  return 0
}
complaints() {
  grep -E '[Ee]rror|[Pp]roblem|[Ff]ail|FAILED|[Cc]url|annot|[Nn]o match|[Uu]nable|space|not signed|Public key' "$log" | tail -n 4 | tr '\n' ' '
}

dnf_options=(-y --setopt=install_weak_deps=False --setopt=retries=3 --setopt=timeout=60 --setopt=installonly_limit=0
  --setopt=keepcache=0 --setopt=tsflags=nodocs)
[ "$manager" = dnf ] || dnf_options=(-y --setopt=retries=3 --setopt=timeout=60 --setopt=installonly_limit=0 --setopt=tsflags=nodocs)
trusted=$(trusted_file)
case $manager:$trusted in
  *:) ;;
  # It has no option for that: for the time of this script they are the system's.
  zypper:*) printf '%s\n' "$AUTHORITIES" >"$anchor" && update-ca-certificates >/dev/null 2>&1 ;;
  # Each run of it, those that only ask as well.
  dnf:*) dnf() { command dnf --setopt=sslcacert="$trusted" "$@"; } ;;
  yum:*) yum() { command yum --setopt=sslcacert="$trusted" "$@"; } ;;
esac

# Set while files are installed that nobody signed.
unsigned=
install() {
  case $manager in
    zypper) try zypper --non-interactive --gpg-auto-import-keys ${unsigned:+"$unsigned"} install --no-recommends --oldpackage --force-resolution --auto-agree-with-licenses "$@" ;;
    *) try "$manager" "${dnf_options[@]}" ${unsigned:+"$unsigned"} install "$@" ;;
  esac
}

# Prints what to ask the package manager for, for a package name that exists in a repository; fails for one that does not.
find_package() {
  case $manager in
    # Versions newest first: the highest build counter of the release.
    zypper)
      zypper --non-interactive --no-refresh --xmlout search --details --match-exact --type package "$1" 2>/dev/null |
        grep -oE 'edition="[^"]+"' | cut -d'"' -f2 | sort -ruV |
        while read -r edition; do
          case $edition in "$VERSION_PREFIX" | "$VERSION_PREFIX".*)
            case ${edition#"$VERSION_PREFIX"} in '' | .*[!0-9.]*) [ "$edition" = "$VERSION_PREFIX" ] || continue ;; esac
            echo "$1=$edition"; break ;; esac
        done | grep . ;;
    dnf)
      # With the architecture, as uname -r has it, or without where it has not.
      dnf -q --setopt=timeout=60 repoquery --qf '%{name}-%{version}-%{release}.%{arch}\n%{name}-%{version}-%{release}\n' "$1" 2>/dev/null |
        grep -xF -m 1 -- "$1" ;;
    yum) yum -q list available "$1" 2>/dev/null | grep -q . && echo "$1" ;;
  esac
}
# Version of an installed package. Of kernel packages several versions can be installed: the name holds the version then.
installed_version() { rpm -q --qf '%{VERSION}-%{RELEASE}\n' "$1" 2>/dev/null | grep -v ' ' | tail -n 1; }
# NAME of NAME-VERSION-RELEASE.ARCH or NAME=VERSION.
bare() {
  case $1 in
    *=*) echo "${1%%=*}" ;;
    *.rpm) rpm -qp --nosignature --qf '%{NAME}' "$1" 2>/dev/null ;;
    *) sed -E 's/-[^-]+-[^-]+$//' <<<"$1" ;;
  esac
}

forget_esp

# --- dkms must not build by itself, nor sign with a key of its own (two builds would differ) --------------------------
if [ "$VARIANT" = build ]; then
  mkdir -p /etc/dkms/framework.conf.d
  : >/etc/dkms/no-autoinstall
  printf '# dkms2bin: modules are signed outside the guest.\nsign_file="/nonexistent"\n' >/etc/dkms/framework.conf.d/dkms2bin.conf
else
  spared="dkms $HEADER_PACKAGES" HEADER_PACKAGES='' TOOLCHAIN=''
fi

# --- metadata, once ---------------------------------------------------------------------------------------------------
case $manager in
  zypper) try zypper --non-interactive --gpg-auto-import-keys refresh || give_up ;;
  *) try "$manager" "${dnf_options[@]}" makecache || give_up ;;
esac

# --- which packages ---------------------------------------------------------------------------------------------------
wanted=() image='' headers=''
declare -A given=()
if [ -n "$KERNEL_PACKAGE_DIR" ]; then
  [ -d "$KERNEL_PACKAGE_DIR" ] || fail "$E_INPUT" "KERNEL_PACKAGE_DIR is not a folder: $KERNEL_PACKAGE_DIR"
  for file in "$KERNEL_PACKAGE_DIR"/*.rpm; do
    [ -f "$file" ] || continue
    name=$(rpm -qp --nosignature --qf '%{NAME}' "$file" 2>/dev/null) || fail "$E_NOT_FOUND" "not an RPM package: $file"
    given[$name]=$(readlink -f "$file")
  done
fi
# Adds a package: the given file, else what a repository has. The name in `found`.
found=
add() {
  local name; name=$(bare "$1-0-0"); [ "$manager" = zypper ] || name=$(bare "$1")
  if [ -n "${given[$name]-}" ]; then found=${given[$name]}; wanted+=("$found"); unset "given[$name]"; return 0; fi
  found=$(find_package "$1") || return 1
  wanted+=("$found")
}
for package in $IMAGE_PACKAGES; do
  if add "$package"; then image=$found; break; fi
done
if [ -z "$image" ]; then
  # What exists under the image's names, in version order.
  for package in $IMAGE_PACKAGES; do
    case $manager in
      zypper) zypper --non-interactive --no-refresh --xmlout search --details --match-exact --type package "$package" 2>/dev/null |
        grep -oE 'edition="[^"]+"' | cut -d'"' -f2 | sed -E "s/\.[0-9]+\$/-${RELEASE##*-}/" ;;
      dnf) dnf -q repoquery --qf '%{version}-%{release}.%{arch}\n' "$(bare "$package")" 2>/dev/null ;;
      yum) yum -q --showduplicates list available "$(bare "$package")" 2>/dev/null | awk 'NF == 3 { print $2 "." substr($1, match($1, /[^.]*$/)) }' ;;
    esac
  done | { grep .; echo "$RELEASE"; } | sort -uV | grep -xF -B 5 -A 5 -- "$RELEASE" | grep -vxF -- "$RELEASE" |
    while read -r near; do say near "$near"; done
  fail "$E_NOT_FOUND" "none of $IMAGE_PACKAGES in the guest's package sources"
fi
if [ -n "$HEADER_CHOICE" ]; then
  for package in $HEADER_PACKAGES; do
    if add "$package"; then headers=$found HEADER_PACKAGES=''; break; fi
  done
  [ -z "$HEADER_PACKAGES" ] || fail "$E_NOT_FOUND" "$image exists but none of $HEADER_PACKAGES does"
fi
for package in $MODULE_PACKAGES $HEADER_PACKAGES; do
  add "$package" || fail "$E_NOT_FOUND" "$image exists but $package does not"
  case " $HEADER_PACKAGES " in "  ") ;; " $package "*) headers=$found ;; esac
done
for package in $EXTRA_PACKAGES; do add "$package" || true; done
# Files beyond the names that the host knows are wanted too: it would not have given them.
for name in ${given[@]+"${!given[@]}"}; do wanted+=("${given[$name]}"); done

toolchain=()
for package in $TOOLCHAIN; do
  rpm -q "$package" >/dev/null 2>&1 || toolchain+=("$package")
done

# The kernel's own hook makes the initramfs: generic, because the next boot may bring other devices than this one.
mkdir -p /etc/dracut.conf.d
cat >/etc/dracut.conf.d/dkms2bin.conf <<'CONF'
hostonly="no"
compress="gzip"
add_drivers+=" virtio_pci virtio_blk virtio_scsi virtio_net virtio_console virtio_rng virtio_mmio sd_mod ext4 xfs btrfs "
CONF

# What headers and dkms would take, as a person installs them: with what they recommend, as is every distro's default.
toolchain_cost() {
  local python brought=
  python=$(command -v /usr/libexec/platform-python || command -v python3) || return 0
  if [ -n "$TOOLCHAIN_REPO" ] && ! rpm -q "$TOOLCHAIN_REPO" >/dev/null 2>&1; then
    install "$TOOLCHAIN_REPO" >/dev/null || return 0
    brought=1
  fi
  # shellcheck disable=SC2086 # a list
  "$python" - "$TOOLCHAIN_NEEDS" "$trusted" $spared 2>/dev/null <<'PYTHON'
import sys
import dnf
import dnf.rpm
needs, trusted, packages = sys.argv[1], sys.argv[2], sys.argv[3:]
base = dnf.Base()
base.conf.read()
if trusted:
    base.conf.sslcacert = trusted
base.conf.substitutions.update_from_etc("/")
base.conf.substitutions["releasever"] = dnf.rpm.detect_releasever("/") or ""
base.read_all_repos()
if needs:
    for repo in base.repos.get_matching(needs):
        repo.enable()
base.fill_sack()
for package in packages:
    base.install(package)
base.resolve()
new, old = base.transaction.install_set, base.transaction.remove_set
size = sum(each.installsize for each in new) - sum(each.installsize for each in old)
print(len(new), size // 1024, sum(each.downloadsize for each in new))
PYTHON
  [ -z "$brought" ] || rpm -e "$TOOLCHAIN_REPO" >/dev/null 2>&1
}

# --- install ----------------------------------------------------------------------------------------------------------
echo "installing ${wanted[*]}"
case $manager in
  # kernel-default-base of the cloud image holds a part of the same files.
  zypper)
    if rpm -q kernel-default-base >/dev/null 2>&1; then rpm -e --nodeps kernel-default-base || fail "$E_PACKAGE_MANAGER" 'kernel-default-base cannot be removed'; fi
    if [ -n "$KERNEL_PACKAGE_DIR" ]; then unsigned=--no-gpg-checks; fi ;;
  *) if [ -n "$KERNEL_PACKAGE_DIR" ]; then unsigned=--nogpgcheck; fi ;;
esac
install "${wanted[@]}" || give_up
unsigned=
# Apart from the kernel: dkms must find it, and its repository may have to come first.
if [ "${#toolchain[@]}" -gt 0 ]; then
  if [ -n "$TOOLCHAIN_REPO" ] && ! rpm -q "$TOOLCHAIN_REPO" >/dev/null 2>&1; then install "$TOOLCHAIN_REPO" || give_up; fi
  # dnf refuses to switch on what it does not know: one of REPOS is on already, under another name.
  needs=()
  if [ -n "$TOOLCHAIN_NEEDS" ] && grep -qsxF "[$TOOLCHAIN_NEEDS]" "$repo_dir"/*.repo; then needs=("--enablerepo=$TOOLCHAIN_NEEDS"); fi
  echo "installing ${toolchain[*]}"
  install ${needs[@]+"${needs[@]}"} "${toolchain[@]}" || give_up
fi

# --- the compiler that the kernel was built with --------------------------------------------------------------------------
# is_known NAME: a repository has the package, in whatever version.
is_known() {
  case $manager in
    zypper) zypper --non-interactive --no-refresh search --match-exact --type package "$1" >/dev/null 2>&1 ;;
    dnf) dnf -q --setopt=timeout=60 repoquery --qf '%{name}\n' "$1" 2>/dev/null | grep -qxF -- "$1" ;;
    yum) yum -q list available "$1" >/dev/null 2>&1 ;;
  esac
}
install_clang() {
  local package tools=(clang lld llvm)
  for package in "${tools[@]}"; do
    rpm -q "$package" >/dev/null 2>&1 || is_known "$package" ||
      fail "$E_NOT_FOUND" "the kernel was built with $kernel_compiler, and the package sources have no $package"
  done
  came=${tools[*]}
  echo "installing $came"
  install "${tools[@]}" || give_up
}
install_gcc() {
  local program folder=/usr/bin suffix=-$1
  # SUSE and Fedora have further versions beside their own; Red Hat's family has them in folders of their own.
  for came in "gcc$1" "gcc-toolset-$1-gcc" ''; do
    if [ -z "$came" ] || is_known "$came"; then break; fi
  done
  if [ -z "$came" ]; then came="gcc $1"; return 1; fi
  echo "installing $came"
  install "$came" || give_up
  if [ "$came" != "gcc$1" ]; then folder=/opt/rh/gcc-toolset-$1/root/usr/bin suffix=''; fi
  for program in gcc ld ld.bfd as ar nm objcopy objdump readelf strip; do
    if [ -x "$folder/$program$suffix" ]; then ln -sf "$folder/$program$suffix" "/usr/local/bin/$program"; fi
  done
}
if [ "$VARIANT" = build ]; then want_compiler; fi

# dkms before 3.0 has no framework.conf.d: there it signs only with keys an admin made.
if [ -f /etc/dkms/framework.conf ] && ! grep -qs 'framework.conf.d' "$(command -v dkms)"; then
  grep -q '^sign_file=' /etc/dkms/framework.conf || printf '\n# dkms2bin\nsign_file="/nonexistent"\n' >>/etc/dkms/framework.conf
fi

# --- what came of it --------------------------------------------------------------------------------------------------
modules=/lib/modules/$RELEASE
[ -d "$modules" ] || fail "$E_NOT_FOUND" "$image brought no $modules"
# With kernel-install /boot may get the kernel from the modules' folder only.
vmlinuz=/boot/vmlinuz-$RELEASE
if [ ! -s "$vmlinuz" ]; then
  for file in "$modules/vmlinuz" "/usr$modules/vmlinuz" "$modules/Image" "/boot/Image-$RELEASE"; do
    if [ -s "$file" ]; then cp -L "$file" "$vmlinuz"; break; fi
  done
fi
[ -s "$vmlinuz" ] || fail "$E_NOT_FOUND" "$image brought no $vmlinuz"
for file in "$modules/config" "/usr$modules/config"; do
  if [ ! -s "/boot/config-$RELEASE" ] && [ -s "$file" ]; then cp -L "$file" "/boot/config-$RELEASE"; fi
done
if [ "$VARIANT" = build ]; then
  [ -e "$modules/build/Makefile" ] || fail "$E_NOT_FOUND" "${headers:-$HEADER_PACKAGES} brought no $modules/build"
fi
[ -s "$modules/modules.dep" ] || depmod "$RELEASE"

# Named as Debian names it, so that the host finds it: dnf's distros say initramfs-RELEASE.img.
initrd=/boot/initrd.img-$RELEASE
made=
for file in "/boot/initramfs-$RELEASE.img" "/boot/initrd-$RELEASE"; do
  if [ -s "$file" ]; then made=$file; break; fi
done
if [ -z "$made" ]; then
  command -v dracut >/dev/null || install dracut || give_up
  made=/boot/initramfs-$RELEASE.img
  dracut --force "$made" "$RELEASE" 2>&1 | sed -u '$a\'
  [ -s "$made" ] || fail "$E_INITRAMFS" "dracut failed for $RELEASE"
fi
ln -f "$made" "$initrd" 2>/dev/null || cp "$made" "$initrd"

name=$(bare "$image")
say image-package "$name"
say image-version "$(rpm -q --qf '%{VERSION}-%{RELEASE}\n' "$name" 2>/dev/null | grep -F -- "${VERSION_PREFIX:-${RELEASE%.*}}" | tail -n 1)"
if [ -n "$headers" ]; then
  say headers-version "$(rpm -q --qf '%{VERSION}-%{RELEASE}\n' "$(bare "$headers")" 2>/dev/null | grep -F -- "${VERSION_PREFIX:-${RELEASE%.*}}" | tail -n 1)"
fi
say gcc-version "$( (readlink -f "$(command -v gcc)"; gcc -dumpfullversion) 2>/dev/null | tr '\n' ' ' | sed 's/ *$//')"
say dkms-version "$(installed_version dkms)"
say vmlinuz "$vmlinuz"
say initrd "$initrd"
uuid=$(sed -nE 's,^UUID=([^ ]+)[[:space:]]+/[[:space:]].*,\1,p' /etc/fstab 2>/dev/null)
say root-uuid "${uuid:-$(findmnt -no UUID / 2>/dev/null)}"
if [ "$VARIANT" = runtime ] && [ "$manager" = dnf ]; then
  cost=$(toolchain_cost)
  [ -z "$cost" ] || say toolchain "$cost"
fi
say cmdline "$(sed 's/BOOT_IMAGE=[^ ]* *//' /proc/cmdline 2>/dev/null)"
sync
