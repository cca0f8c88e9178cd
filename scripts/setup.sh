# Sets up what dkms2bin needs on a Debian or Ubuntu host: host tools, node_modules, dist. Sourced by the scripts
# beside it. Everything it prints goes to stderr, because stdout belongs to the tool. It ends the calling script with
# exit code 4 (this host cannot) when something is missing that it may not or cannot install.
# shellcheck shell=bash

# Ordinary users on Debian have no sbin in PATH, and mkfs.* and sfdisk live there.
PATH="$PATH:/usr/local/sbin:/usr/sbin:/sbin"
export PATH

setup_root=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd -P)

# Package and the command that shows it is there.
setup_tools=(
  qemu-system-x86:qemu-system-x86_64
  qemu-utils:qemu-img
  mmdebstrap:mmdebstrap
  xorriso:xorriso
  mtools:mcopy
  dosfstools:mkfs.vfat
  e2fsprogs:mke2fs
  fakeroot:fakeroot
  bubblewrap:bwrap
  uidmap:newuidmap
  fdisk:sfdisk
  openssh-client:ssh
  xz-utils:xz
  zstd:zstd
  openssl:openssl
  util-linux:flock
  gpgv:gpgv
)
# Only wanted by tests; those that miss one say that they are skipped.
setup_test_tools=(
  git:git
  zip:zip
  bzip2:bzip2
  chromium:chromium
  redis-server:redis-server
  kmod:modinfo
  rpm:rpmbuild
  createrepo-c:createrepo_c
  zypper:zypper
  dnf:dnf
  dpkg-dev:dpkg-scanpackages
  zsh:zsh
  fish:fish
  softhsm2:softhsm2-util
  'opensc libengine-pkcs11-openssl:pkcs11-tool'
)
# Only wanted when npm has to compile node-pty.
setup_compilers=(python3:python3 make:make g++:g++)

setup_say() { printf 'dkms2bin set-up: %s\n' "$*" >&2; }

setup_fail() {
  printf 'dkms2bin set-up: %s\n' "$@" >&2
  exit 4
}

setup_any_file() {
  local file
  for file in "$@"; do [[ -e $file ]] && return 0; done
  return 1
}

# Fills `missing` with the packages whose command or file is not here.
setup_find_missing() {
  local tool
  missing=()
  for tool in "$@"; do
    command -v "${tool#*:}" >/dev/null || missing+=("${tool%%:*}")
  done
  setup_any_file /usr/share/OVMF/OVMF_CODE_4M.fd /usr/share/OVMF/OVMF_CODE.fd || missing+=(ovmf)
  setup_any_file /usr/share/keyrings/debian-archive-keyring.{gpg,pgp} || missing+=(debian-archive-keyring)
}

# Installs packages, refreshing the package lists only when they do not lead to them.
setup_apt() {
  command -v apt-get >/dev/null ||
    setup_fail "missing on this host: $*" "It has no apt-get; install what these Debian packages hold, then try again."
  local apt=(env DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300)
  local command="apt-get update && apt-get install --no-install-recommends $*"
  if ((EUID != 0)); then
    if command -v sudo >/dev/null && sudo -n true 2>/dev/null; then
      apt=(sudo -n "${apt[@]}")
    elif command -v sudo >/dev/null && [[ -t 0 && -t 2 ]]; then
      setup_say "sudo may ask for your password to install: $*"
      apt=(sudo "${apt[@]}")
    else
      setup_fail "missing on this host: $*" "Install it as root, then try again:" "  ${command//apt-get/sudo apt-get}"
    fi
  fi
  setup_say "installing $*"
  local install=("${apt[@]}" install --yes --quiet --no-install-recommends "$@")
  # The first try fails on a machine whose lists are absent or name files the mirror no longer has.
  if ! "${install[@]}" </dev/null >/dev/null 2>&1; then
    "${apt[@]}" update --quiet </dev/null >&2 || setup_say 'apt-get update failed, trying to install all the same'
    "${install[@]}" </dev/null >&2 || setup_fail "apt-get could not install: $*" "By hand: ${command}"
  fi
}

# One after the other, because not every distro has each.
setup_for_tests() {
  local tool packages
  for tool in "${setup_test_tools[@]}"; do
    read -ra packages <<<"${tool%%:*}"
    command -v "${tool#*:}" >/dev/null || (setup_apt "${packages[@]}") ||
      setup_say "without ${packages[*]} some tests are skipped"
  done
}

# Node 20 or newer, and npm when `$1` is `npm`. Installs the distro's when that is new enough.
setup_node() {
  local version=0
  if command -v node >/dev/null; then
    version=$(node --version) version=${version#v} version=${version%%.*}
  fi
  ((version >= 20)) && { [[ ${1-} != npm ]] || command -v npm >/dev/null; } && return
  if ((version == 0 || version >= 20)) && command -v apt-cache >/dev/null; then
    if [[ -z $(setup_node_candidate) ]] && ((EUID == 0)); then apt-get update --quiet </dev/null >&2 || true; fi
    local candidate
    candidate=$(setup_node_candidate)
    if ((version >= 20)); then
      setup_apt npm
      return
    elif ((${candidate:-0} >= 20)); then
      setup_apt nodejs npm
      return
    fi
  fi
  local have="Node.js is not installed"
  ((version == 0)) || have="Node.js $version is too old"
  ((version < 20)) || have='npm is not installed'
  setup_fail "$have; dkms2bin needs Node.js 20 or newer with npm." \
    'Debian 13 and Ubuntu 25.04 or newer: apt-get install nodejs npm' \
    'Older releases: see https://nodejs.org/en/download, or use a version manager such as nvm or fnm.'
}

# Major version of the distro's nodejs package, nothing when apt knows none.
setup_node_candidate() {
  LC_ALL=C apt-cache policy nodejs 2>/dev/null |
    sed -nE 's/^ *Candidate: ([0-9]+:)?([0-9]+)\..*/\2/p'
}

setup_modules_stale() {
  [[ ! -e node_modules/.package-lock.json || package-lock.json -nt node_modules/.package-lock.json ]]
}

setup_dist_stale() {
  [[ ! -e dist/main.js ]] ||
    [[ -n $(find src package.json tsconfig.json tsconfig.build.json -newer dist/main.js -print -quit) ]]
}

setup_pty_works() { node -e "require('node-pty')" 2>/dev/null; }

setup_install_modules() {
  local missing
  setup_find_missing "${setup_compilers[@]}"
  ((${#missing[@]} == 0)) || setup_apt "${missing[@]}"
  # node-gyp fetches Node's headers unless it is told that they are here.
  local prefix
  prefix=$(node -p "require('path').resolve(process.execPath, '../..')")
  if [[ -e $prefix/include/node/node.h ]]; then export npm_package_config_node_gyp_nodedir=$prefix; fi
  setup_say 'installing the npm packages'
  npm ci --no-audit --no-fund </dev/null >&2 || setup_fail 'npm ci failed, see above'
  # An npm told to ignore install scripts leaves node-pty without its native half.
  if ! setup_pty_works; then
    npm rebuild --ignore-scripts=false --foreground-scripts node-pty </dev/null >&2 || true
    if ! setup_pty_works; then
      rm -f node_modules/.package-lock.json
      setup_fail 'node-pty could not be compiled, see above'
    fi
  fi
  # `npm ci` keeps the lock's times in some versions; this file's time is what the next run compares.
  touch node_modules/.package-lock.json
}

setup_build() {
  local started
  setup_say 'building'
  # main.js gets the time before the build, so that a source edited meanwhile counts as newer.
  started=$(date +%s.%N)
  if ! npm run --silent build </dev/null >&2; then
    # tsc writes its output even when it found errors: without main.js the next run builds again.
    rm -f dist/main.js
    setup_fail 'the build failed, see above'
  fi
  touch -d "@$started" dist/main.js
}

# Root working in somebody's checkout leaves that person's files behind, not its own.
setup_keep_owner() {
  if ((EUID == 0)) && [[ ! -O . ]]; then chown -R --no-dereference --reference=. "$@"; fi
}

# shellcheck disable=SC2120
# setup [modules|all]: `modules` stops before the build.
setup() {
  local what=${1:-all} missing
  cd -- "$setup_root" || exit
  setup_find_missing "${setup_tools[@]}"
  ((${#missing[@]} == 0)) || setup_apt "${missing[@]}"
  setup_node
  if ! setup_modules_stale && { [[ $what == modules ]] || ! setup_dist_stale; }; then return; fi
  [[ -w . ]] || setup_fail "$setup_root must be built first, and you may not write to it." \
    'Run scripts/dkms2bin --help once as its owner, or use a copy of your own.'
  setup_node npm
  # The lock is on the folder itself: nothing to leave behind, and it goes with the process however that ends.
  exec {setup_lock}<.
  flock --nonblock "$setup_lock" || { setup_say 'waiting for another set-up of this folder' && flock "$setup_lock"; }
  if setup_modules_stale; then
    setup_install_modules
    setup_keep_owner node_modules
  fi
  if [[ $what == all ]] && setup_dist_stale; then
    setup_build
    setup_keep_owner dist
  fi
  exec {setup_lock}<&-
}
