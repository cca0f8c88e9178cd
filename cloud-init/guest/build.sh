#!/bin/bash
# Builds the pushed or fetched DKMS package for the running kernel, after the guest lost its way out. Run as root, `bash -s`.
#
# Variables: KIND, NAME, VERSION, SRC, EXTRA (as for fetch-source.sh; VERSION as it resolved it), RELEASE, JOBS (default 1),
#   EPOCH (seconds, for reproducible builds; default 0), KEEP (not empty: the machine may be logged in to later),
#   DEBUG_SYMBOLS (not empty: what dkms strips from the modules is kept beside them)
#
# Result lines, @@dkms2bin KEY VALUE:
#   source-package NAME VERSION       what was installed (repo, deb) or the module itself (folder, tarball)
#   build-seconds NAME/VERSION 12.345 wall time of the `dkms build` command
#   first-error NAME/VERSION LINE     the first error line of make.log
#   module NAME VERSION built|skipped|failed|error REASON…      one per module of the package
#   dependency NAME VERSION built|skipped|failed|error REASON…  one per module built only because another needs it
#   error TEXT                        why the script ended early
# The running build's make.log is streamed in between; a line of it never starts with @@dkms2bin.
#
# Exit codes: 0 all built or skipped · 1 a module failed · 6 a module ended in an error (no module's fault) ·
#   2 bad variables or unreadable file · 3 no DKMS module in the package · 7 the package did not install ·
#   8 no space left · 20 another kernel runs · 21 no headers for it
#
# Leaves for collect.py: /var/lib/dkms2bin/result/. With KEEP: /var/lib/dkms2bin/rebuild, /etc/profile.d/dkms2bin.sh.
set -u
export LC_ALL=C DEBIAN_FRONTEND=noninteractive PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root
KIND=${KIND:-} NAME=${NAME:-} VERSION=${VERSION:-} SRC=${SRC:-} RELEASE=${RELEASE:-} JOBS=${JOBS:-1} EPOCH=${EPOCH:-0}
EXTRA=${EXTRA:-} KEEP=${KEEP:-} DEBUG_SYMBOLS=${DEBUG_SYMBOLS:-}

# Every process that starts costs 50 to 100 ms under emulation: builtins wherever the common path goes.
say() { local key=$1 text; shift; text=${*//[$'\n\t\r']/ }; printf '@@dkms2bin %s %s\n' "$key" "${text:0:2000}"; }
fail() { local code=$1; shift; say error "$*"; exit "$code"; }

case $RELEASE in '' | *[!A-Za-z0-9.+~_-]*) fail 2 "RELEASE is not a kernel release: '$RELEASE'" ;; esac
case $JOBS in '' | *[!0-9]*) fail 2 "JOBS is not a number: '$JOBS'" ;; esac
case $EPOCH in '' | *[!0-9]*) fail 2 "EPOCH is not a number: '$EPOCH'" ;; esac
read -r running </proc/sys/kernel/osrelease
[ "$running" = "$RELEASE" ] || fail 20 "the guest runs $running, not $RELEASE"
[ -e "/lib/modules/$RELEASE/build/Makefile" ] || fail 21 "no kernel headers: /lib/modules/$RELEASE/build has no Makefile"
arch=$HOSTTYPE
tree=/var/lib/dkms
state=/var/lib/dkms2bin
result=$state/result
[ ! -e "$result" ] || rm -rf "$result"
mkdir -p "$result/modules" "$tree" /etc/dkms || fail 8 "cannot write $result"
: >/etc/dkms/no-autoinstall

export SOURCE_DATE_EPOCH=$EPOCH KBUILD_BUILD_USER=dkms2bin KBUILD_BUILD_HOST=dkms2bin KBUILD_BUILD_VERSION=1
TZ=UTC0 printf -v KBUILD_BUILD_TIMESTAMP '%(%a %b %e %H:%M:%S UTC %Y)T' "$EPOCH"
export KBUILD_BUILD_TIMESTAMP

# What the compiler has answered before, it need not be asked again: see cc-probes.c. A machine that booted cold has none of it.
PATH_OF_TOOLS=$PATH
[ ! -d /usr/local/lib/dkms2bin/cc ] || PATH_OF_TOOLS=/usr/local/lib/dkms2bin/cc:$PATH

# dkms 2.8 to 3.2 run `strip -g FILE` on each module that STRIP=no does not spare, before they sign and compress it. strip
# itself is replaced: 2.8 sets a PATH of its own, and all of them `unset strip`, which would take an inherited function, too.
if [ -n "$DEBUG_SYMBOLS" ] && [ ! -e /usr/bin/strip.dkms2bin ]; then
  mv /usr/bin/strip /usr/bin/strip.dkms2bin && cat >/usr/bin/strip <<'STRIP' && chmod 755 /usr/bin/strip
#!/bin/bash
# Written by dkms2bin: keeps what dkms strips from a module. One name per path: two may be called the same where they are built.
case $#$1${2-} in
  2-g*.ko) [ -z "${DKMS2BIN_DEBUG:-}" ] || objcopy --only-keep-debug "$2" "$DKMS2BIN_DEBUG/${2//\//@}.debug" || rm -f "$DKMS2BIN_DEBUG/${2//\//@}.debug" ;;
esac
exec strip.dkms2bin "$@"
STRIP
fi

# --- dkms.conf, read the way dkms reads it ----------------------------------------------------------------------------
# read_conf FOLDER: puts lines "KEY value" for what we need of the folder's dkms.conf into $conf. A folder's is read once.
declare -A confs
read_conf() {
  [ -n "${confs[$1]:-}" ] || confs[$1]=$(conf_of "$1")
  conf=${confs[$1]}
}
conf_of() {
  (
    set +u
    # shellcheck disable=SC2034 # dkms.conf may use them
    kernelver=$RELEASE kernel_source_dir=/lib/modules/$RELEASE/build dkms_tree=$tree source_tree=/usr/src
    unset PACKAGE_NAME PACKAGE_VERSION BUILD_DEPENDS "${!BUILD_EXCLUSIVE_@}" OBSOLETE_BY POST_ADD
    cd "$1" || exit 1
    exec 3>&1
    # shellcheck disable=SC1091
    . ./dkms.conf >/dev/null 2>&1 </dev/null
    for key in PACKAGE_NAME PACKAGE_VERSION BUILD_EXCLUSIVE_KERNEL BUILD_EXCLUSIVE_KERNEL_MIN BUILD_EXCLUSIVE_KERNEL_MAX \
      BUILD_EXCLUSIVE_ARCH BUILD_EXCLUSIVE_CONFIG OBSOLETE_BY POST_ADD; do
      [ -z "${!key}" ] || printf '%s %s\n' "$key" "${!key//$'\n'/ }" >&3
    done
    for key in "${BUILD_DEPENDS[@]}"; do
      for word in $key; do printf 'BUILD_DEPENDS %s\n' "$word" >&3; done
    done
  )
}
# conf_value VARIABLE KEY: its value in $conf, or nothing.
conf_value() {
  local each_key each_value
  printf -v "$1" ''
  while read -r each_key each_value; do
    if [ "$each_key" = "$2" ]; then printf -v "$1" '%s' "$each_value"; return; fi
  done <<<"$conf"
}
has_line() { case $'\n'$1$'\n' in *$'\n'"$2"$'\n'*) ;; *) return 1 ;; esac; } # TEXT LINE

# Whether the second version is the first or newer.
ordered() { printf '%s\n' "$@" | sort -CV; }
exclusive_reason() {
  local conf=$1 value item config=/lib/modules/$RELEASE/build/.config reasons=
  [ -e "$config" ] || config=/boot/config-$RELEASE
  conf_value value BUILD_EXCLUSIVE_KERNEL
  [ -z "$value" ] || [[ $RELEASE =~ $value ]] || reasons+="; BUILD_EXCLUSIVE_KERNEL=\"$value\" does not match $RELEASE"
  conf_value value BUILD_EXCLUSIVE_KERNEL_MIN
  [ -z "$value" ] || ordered "$value" "${RELEASE%%-*}" || reasons+="; BUILD_EXCLUSIVE_KERNEL_MIN=\"$value\" is newer than $RELEASE"
  conf_value value BUILD_EXCLUSIVE_KERNEL_MAX
  [ -n "$value" ] || conf_value value OBSOLETE_BY
  [ -z "$value" ] || ordered "${RELEASE%%-*}" "$value" || reasons+="; BUILD_EXCLUSIVE_KERNEL_MAX=\"$value\" is older than $RELEASE"
  conf_value value BUILD_EXCLUSIVE_ARCH
  [ -z "$value" ] || [[ $arch =~ $value ]] || reasons+="; BUILD_EXCLUSIVE_ARCH=\"$value\" does not match $arch"
  conf_value value BUILD_EXCLUSIVE_CONFIG
  for item in $value; do
    case $item in
      '!'*) ! grep -q "^${item#!}=[ym]" "$config" 2>/dev/null || reasons+="; BUILD_EXCLUSIVE_CONFIG: this kernel has ${item#!}" ;;
      *) grep -q "^$item=[ym]" "$config" 2>/dev/null || reasons+="; BUILD_EXCLUSIVE_CONFIG: this kernel has no $item" ;;
    esac
  done
  printf '%s' "${reasons#; }"
}

# --- install: nothing is built yet (/etc/dkms/no-autoinstall) ------------------------------------------------------------
added_modules() { local link; for link in "$tree"/*/*/source; do if [ -e "$link" ]; then link=${link%/source}; echo "${link#"$tree"/}"; fi; done; }
conf_folders() { local conf; for conf in /usr/src/*/dkms.conf; do if [ -f "$conf" ]; then echo "${conf%/dkms.conf}"; fi; done; }
# Whether fetch-source.sh ran. Then the package may need what it fetched, and is installed; else only unpacked.
fetched=''
[ ! -e "$state/fetched-depends" ] || fetched=1
apt_offline() {
  apt-get -y --no-install-recommends --no-download -o Dpkg::Use-Pty=0 -o Dpkg::Options::=--force-confdef -o Dpkg::Options::=--force-confold \
    -o Dpkg::Options::=--force-unsafe-io -o DPkg::Lock::Timeout=120 install "$@" </dev/null 2>&1
}
install_debs() {
  if apt_offline "$@" | tee "$state/apt.log" | sed -u '$a\'; [ "${PIPESTATUS[0]}" -eq 0 ]; then return 0; fi
  grep -q 'No space left on device' "$state/apt.log" && fail 8 "the guest's disk is full"
  fail 7 "the package did not install: $(grep -E '^(E:|dpkg: error)|^ .*Depends' "$state/apt.log" | head -n 3 | tr '\n' ' ')"
}

# The package's files without its scripts, which would run dkms for 8 s of emulation. The list goes to $state/files.
fsys_tar() { case $1 in *.deb) dpkg-deb --fsys-tarfile "$1" ;; *) cat "$1" ;; esac; }
unpack_package() { # FILE: a .deb, or a tar of all files of an .rpm
  fsys_tar "$1" | tar -C / -xv --quoting-style=literal --keep-directory-symlink --no-overwrite-dir -f - >"$state/files" 2>"$state/tar.log"
  case ${PIPESTATUS[*]} in '0 0') return 0 ;; esac
  grep -q 'No space left' "$state/tar.log" && fail 8 "the guest's disk is full"
  fail 7 "the package did not unpack: $(head -n 1 "$state/tar.log")"
}

package='' package_version=''
sources=()  # folders of the package's own modules, when known
add_folder() { # FOLDER: register it with dkms
  local folder=$1 conf name version after
  read_conf "$folder"
  conf_value name PACKAGE_NAME
  conf_value version PACKAGE_VERSION
  conf_value after POST_ADD
  if [ -z "$name" ] || [ -z "$version" ]; then echo "no PACKAGE_NAME or PACKAGE_VERSION in $folder/dkms.conf"; return 1; fi
  confs[$tree/$name/$version/source]=$conf
  [ -e "$tree/$name/$version/source" ] && return 0
  # A file in /etc/dkms may override what dkms.conf says.
  if [ "$folder" = "/usr/src/$name-$version" ] && [ -z "$after" ] && ! compgen -G "/etc/dkms/$name*.conf" >/dev/null; then
    # All that `dkms add` leaves, in 2.8 to 3.2; it takes 3 s.
    mkdir -p "$tree/$name/$version/build" && ln -sfn "$folder" "$tree/$name/$version/source"
  elif [ "$folder" = "/usr/src/$name-$version" ]; then dkms add -m "$name" -v "$version" </dev/null 2>&1
  else dkms add "$folder" </dev/null 2>&1; fi
}
unpack_source() { # FOLDER: copy an unpacked source to /usr/src/NAME-VERSION
  local folder=$1 conf name version
  # Sources before packaging carry dh_dkms's placeholder, or no version at all.
  if [ -n "$VERSION" ]; then
    sed -i "s/#MODULE_VERSION#/$(printf '%s' "$VERSION" | sed 's/[&\/\\]/\\&/g')/" "$folder/dkms.conf"
    grep -q '^[[:space:]]*PACKAGE_VERSION=' "$folder/dkms.conf" || printf '\nPACKAGE_VERSION="%s"\n' "$VERSION" >>"$folder/dkms.conf"
  fi
  conf=$(conf_of "$folder")
  conf_value name PACKAGE_NAME
  conf_value version PACKAGE_VERSION
  [ -n "$name" ] || fail 3 "dkms.conf sets no PACKAGE_NAME"
  case $name$version in */* | *' '* | *'#'*) fail 3 "dkms.conf's name or version cannot be used: '$name' '$version'" ;; esac
  [ -n "$version" ] || fail 3 "dkms.conf sets no PACKAGE_VERSION"
  [ ! -e "/usr/src/$name-$version" ] || rm -rf "/usr/src/$name-$version"
  mv "$folder" "/usr/src/$name-$version" || fail 8 "cannot move the source to /usr/src/$name-$version"
  sources+=("/usr/src/$name-$version")
  [ -n "$package" ] || { package=$name; package_version=$version; }
}

take_deb() { # FILE [PACKAGE…]: install FILE with those packages, or unpack it
  local path file=$1
  shift
  if [ -n "$fetched" ]; then
    install_debs "$(readlink -f "$file")" "$@"
    dpkg -L "$(dpkg-deb -f "$file" Package)" >"$state/files"
  else unpack_package "$file"; fi
  find_sources
}
find_sources() { # adds to sources what $state/files lists
  local path
  while read -r path; do
    path=${path#.} path=/${path#/}
    case $path in
      /usr/src/*/*/dkms.conf) ;;
      /usr/src/*/dkms.conf) sources+=("${path%/dkms.conf}") ;;
    esac
  done <"$state/files"
}
take_tree() { # TAR
  local unpacked=$state/unpacked depth='' found conf
  [ ! -e "$unpacked" ] || rm -rf "$unpacked"
  mkdir -p "$unpacked"
  tar -C "$unpacked" --no-same-owner -xf "$1" 2>"$state/tar.log" || {
    grep -q 'No space left' "$state/tar.log" && fail 8 "the guest's disk is full"
    fail 2 "cannot unpack $1: $(head -n 1 "$state/tar.log")"
  }
  if [ -f "$unpacked/dkms.conf" ]; then unpack_source "$unpacked"
  elif [ -f "$unpacked/dkms_source_tree/dkms.conf" ]; then unpack_source "$unpacked/dkms_source_tree"
  elif [ -f "$unpacked/dkms_binaries_only/dkms.conf" ]; then fail 3 'the tarball holds binaries only (dkms mktarball --binaries-only): there is nothing to build'
  else
    while read -r found conf; do
      [ -n "$depth" ] || depth=$found
      [ "$found" = "$depth" ] || break
      unpack_source "${conf%/dkms.conf}"
    done < <(find "$unpacked" -name dkms.conf -type f -printf '%d %p\n' | sort -k1,1n -k2)
  fi
  [ ! -e "$unpacked" ] || rm -rf "$unpacked"
}

brought=() # NAME/VERSION of the modules of other sources
bring() {
  local VERSION='' each folder conf name version
  for each in $EXTRA; do
    case $each in
      deb:*) take_deb "${each#*:}" ;;
      rpm:*) unpack_package "${each#*:}"; find_sources ;;
      *) take_tree "${each#*:}" ;;
    esac
  done
  for folder in ${sources[@]+"${sources[@]}"}; do
    add_folder "$folder" || continue
    read_conf "$folder"
    conf_value name PACKAGE_NAME
    conf_value version PACKAGE_VERSION
    brought+=("$name/$version")
  done
  sources=() package='' package_version=''
}
[ -z "$EXTRA" ] || bring
before_modules=$(added_modules)
before_folders=$(conf_folders)

case $KIND in
  repo | deb)
    file=$SRC
    if [ "$KIND" = repo ]; then
      case $NAME in '' | -* | *[!a-z0-9+.-]*) fail 2 "not a package name: '$NAME'" ;; esac
      file='' best=''
      for candidate in /var/cache/apt/archives/"$NAME"_*.deb; do
        [ -f "$candidate" ] || continue
        v=$(dpkg-deb -f "$candidate" Version)
        case $VERSION in
          '') ;;
          *'~') case ${v#*:} in "${VERSION%\~}"*) ;; *) continue ;; esac ;;
          *) [ "$v" = "$VERSION" ] || [ "${v#*:}" = "$VERSION" ] || [ "${v%-*}" = "$VERSION" ] || continue ;;
        esac
        if [ -z "$best" ] || dpkg --compare-versions "$v" gt "$best"; then best=$v file=$candidate; fi
      done
      [ -n "$file" ] || fail 3 "the apt cache holds no $NAME $VERSION: was it fetched?"
    fi
    control=$(dpkg-deb -f "$file" Package Version) || fail 2 "not a Debian package: $file"
    while IFS=': ' read -r key value; do
      case $key in Package) package=$value ;; Version) package_version=$value ;; esac
    done <<<"$control"
    depends=()
    if [ -n "$fetched" ]; then
      while read -r name; do [ "$name" = "$package" ] || depends+=("$name"); done <"$state/fetched-depends"
    fi
    take_deb "$file" ${depends[@]+"${depends[@]}"}
    ;;
  folder | tarball | rpm)
    if [ -s "$state/fetched-depends" ]; then
      mapfile -t depends <"$state/fetched-depends"
      install_debs "${depends[@]}"
    fi
    if [ "$KIND" = rpm ]; then
      package=$NAME package_version=$VERSION
      unpack_package "$SRC"
      find_sources
    else take_tree "$SRC"; fi
    ;;
  *) fail 2 "KIND must be repo, deb, rpm, folder or tarball, not '$KIND'" ;;
esac
case $KIND in
  repo | deb | rpm)
    : >"$result/extras"
    while read -r path; do
      path=${path#.} path=/${path#/}
      if [[ $path =~ ^(/etc|/lib|/usr/lib|/usr/local/lib)/(modprobe\.d|modules-load\.d|udev/rules\.d|firmware)/ ]] && [ -f "$path" ] && [ ! -L "$path" ]; then
        printf '%s\n' "$path" >>"$result/extras"
      fi
    done <"$state/files"
    if [ ${#sources[@]} -eq 0 ]; then
      # An old style package that carries a dkms tarball.
      for archive in /usr/share/"$package"/*.dkms.tar.gz /usr/share/"$NAME"/*.dkms.tar.gz; do
        [ -f "$archive" ] && dkms ldtarball --archive="$archive" </dev/null 2>&1
      done
      # Some put their source in its place by a script.
      if [ "$KIND" != rpm ] && [ -z "$fetched" ] && [ "$(added_modules)" = "$before_modules" ] && [ "$(conf_folders)" = "$before_folders" ]; then
        install_debs "$(readlink -f "$file")"
      fi
    fi ;;
esac

while read -r folder; do
  [ -n "$folder" ] || continue
  has_line "$before_folders" "$folder" || add_folder "$folder"
done <<<"$(conf_folders)"
for folder in ${sources[@]+"${sources[@]}"}; do add_folder "$folder"; done

targets=()
if [ ${#sources[@]} -gt 0 ]; then
  for folder in "${sources[@]}"; do
    read_conf "$folder"
    conf_value name PACKAGE_NAME
    conf_value version PACKAGE_VERSION
    id=$name/$version
    if [ -e "$tree/$id/source" ]; then targets+=("$id")
    else say module "${id%/*}" "${id#*/}" failed "dkms add refused $folder"; refused=1; fi
  done
else
  while read -r id; do
    [ -n "$id" ] || continue
    has_line "$before_modules" "$id" || targets+=("$id")
  done <<<"$(added_modules)"
fi
[ ${#targets[@]} -gt 0 ] || [ -n "${refused:-}" ] || fail 3 "no DKMS module (dkms.conf under /usr/src) came with ${package:-$SRC}"
say source-package "$package" "$package_version"
printf '%s\n%s\n' "$package" "$package_version" >"$result/source"

# --- build --------------------------------------------------------------------------------------------------------------
declare -A verdict reason on_path
order=()
stream=''
stop_stream() { [ -z "$stream" ] || { kill "$stream" 2>/dev/null; wait "$stream" 2>/dev/null; stream=''; }; }
trap stop_stream EXIT

first_error() { # LOG: compiler, then linker and modpost, then make
  grep -m 1 -E '(^|[^[:alnum:]_])(fatal )?error: ' "$1" 2>/dev/null ||
    grep -m 1 -E '^ERROR:|ERROR: modpost|undefined reference|FATAL: modpost' "$1" 2>/dev/null ||
    grep -m 1 -E '\*\*\*|: Error [0-9]|No such file|not found' "$1" 2>/dev/null
}
finish() { # ID VERDICT REASON
  verdict[$1]=$2 reason[$1]=$3
  local kind=dependency
  case " ${targets[*]} " in *" $1 "*) kind=module ;; esac
  say "$kind" "${1%/*}" "${1#*/}" "$2" "$3"
}
find_dependency() { # NAME → NAME/VERSION: what the request brought, else the newest
  local id
  for id in ${brought[@]+"${brought[@]}"}; do
    [ "${id%/*}" != "$1" ] || { echo "$id"; return; }
  done
  added_modules | grep -F "$1/" | awk -F/ -v n="$1" '$1 == n' | sort -V | tail -n 1
}

build_one() { # ID PATH-SO-FAR
  local id=$1 path=$2 name=${1%/*} version=${1#*/} conf key dep dep_id log out code start end base why first folder file line made
  [ -z "${verdict[$id]:-}" ] || return 0
  on_path[$id]=1
  read_conf "$tree/$id/source"
  folder=$result/modules/$name--$version
  mkdir -p "$folder/ko" "$folder/debug"
  printf '%s\n%s\n' "$name" "$version" >"$folder/id"
  : >"$folder/depends"
  while read -r key dep; do
    [ "$key" = BUILD_DEPENDS ] || continue
    echo "$dep" >>"$folder/depends"
    dep_id=$(find_dependency "$dep")
    if [ -z "$dep_id" ]; then
      finish "$id" error "its build dependency $dep (BUILD_DEPENDS) is missing: no other source brings it, and there is no package $dep-dkms in the package sources"
      return 0
    fi
    if [ -n "${on_path[$dep_id]:-}" ]; then
      finish "$id" error "its build dependencies form a cycle: $path$name -> $dep"
      return 0
    fi
    build_one "$dep_id" "$path$name -> "
    case ${verdict[$dep_id]} in
      built)
        # depmod takes 40 s of emulation, and no build asks modprobe.
        if ! out=$(dkms install -m "$dep" -v "${dep_id#*/}" -k "$RELEASE" --no-depmod --force </dev/null 2>&1); then
          finish "$id" error "its build dependency $dep_id did not install: $(grep -m 1 -i error <<<"$out")"
          return 0
        fi ;;
      *)
        finish "$id" "${verdict[$dep_id]}" "its build dependency $dep_id was ${verdict[$dep_id]/error/in error}: ${reason[$dep_id]}"
        unset "on_path[$id]"
        return 0 ;;
    esac
  done <<<"$conf"
  unset "on_path[$id]"

  base=$tree/$id/$RELEASE/$arch
  log=$tree/$id/build/make.log
  [ ! -e "$base" ] && [ ! -e "$log" ] || rm -rf "$base" "$tree/$id/build"
  last_id=$id
  echo "dkms build $id for $RELEASE, $JOBS job(s)"
  tail -q -n +1 -F -s 0.5 "$log" 2>/dev/null > >(exec sed -u 's/^@@dkms2bin/ &/') &
  stream=$!
  start=$EPOCHREALTIME
  DKMS2BIN_DEBUG=$folder/debug PATH=$PATH_OF_TOOLS dkms build -m "$name" -v "$version" -k "$RELEASE" -j "$JOBS" </dev/null >"$state/dkms.out" 2>&1
  code=$?
  end=$EPOCHREALTIME
  # What it read last is still to be printed. The pipe never has anything to read: a sleep without a process.
  read -r -t 0.1 <> <(:)
  stop_stream
  echo
  while read -r line || [ -n "$line" ]; do printf '%s\n' "${line/#@@dkms2bin/ @@dkms2bin}"; done <"$state/dkms.out"
  start=$((${end/./} - ${start/./}))
  say build-seconds "$id" "$((start / 1000000)).$(printf '%06d' $((start % 1000000)))"

  for file in "$base/log/make.log" "$log" "$tree/$id/$RELEASE"/*/log/make.log "$state/dkms.out"; do
    if [ -f "$file" ]; then log=$file; break; fi
  done
  # dkms.out is the next module's, too.
  if [ "$log" = "$state/dkms.out" ]; then cp "$log" "$folder/dkms.out" && log=$folder/dkms.out; fi
  echo "$log" >"$folder/log"

  if [ "$code" -eq 0 ]; then
    made=()
    for file in "$tree/$id/$RELEASE"/*/module/*.ko*; do
      [ -f "$file" ] || continue
      out=$folder/ko/${file##*/}
      case $file in
        *.ko) out=$file ;;
        *.ko.xz) out=${out%.xz} && xz -dc "$file" >"$out" ;;
        *.ko.zst) out=${out%.zst} && zstd -qdc "$file" >"$out" ;;
        *.ko.gz) out=${out%.gz} && gzip -dc "$file" >"$out" ;;
        *) continue ;;
      esac || { finish "$id" error "cannot copy ${file##*/} (disk full, or no decompressor)"; return 0; }
      echo "$out" >>"$folder/ko-files"
      made+=("${out##*/}")
    done
    if [ ${#made[@]} -eq 0 ]; then finish "$id" failed 'dkms built no module (BUILT_MODULE_NAME is empty)'
    else finish "$id" built "${made[*]}"; fi
    return 0
  fi

  why=$(grep -m 1 -iE '^ *error!' -A 2 "$state/dkms.out" | tr '\n' ' ' | sed 's/  */ /g')
  if [ "$code" -eq 77 ] || { [ "$code" -eq 9 ] && grep -q BUILD_EXCLUSIVE "$state/dkms.out"; }; then
    out=$(exclusive_reason "$conf")
    finish "$id" skipped "${out:-a BUILD_EXCLUSIVE directive of its dkms.conf does not match this kernel}"
  elif grep -qE 'No space left on device' "$log" "$state/dkms.out"; then
    finish "$id" error "the guest's disk is full (No space left on device)"
  elif [ "$code" -ge 129 ] || grep -qE '(^|[^[:alpha:]])Killed($| signal|[^[:alpha:]])|virtual memory exhausted|Cannot allocate memory|out of memory allocating' "$log" "$state/dkms.out"; then
    finish "$id" error "the guest ran out of memory (a compiler was killed): give it more memory or fewer jobs"
  elif [ "$code" -eq 21 ] || grep -qi 'kernel headers for kernel .* cannot be found' "$state/dkms.out"; then
    finish "$id" error "no kernel headers for $RELEASE"
  elif [ "$code" -eq 13 ]; then
    finish "$id" error "${why:-a build dependency is missing}"
  elif [ "$code" -eq 12 ] || [ "$code" -eq 15 ] || [ "$code" -eq 16 ] || [ "$code" -eq 126 ] || [ "$code" -eq 127 ]; then
    finish "$id" error "dkms ended with $code: ${why:-$(tail -n 1 "$state/dkms.out")}"
  else
    first=$(first_error "$log")
    [ -z "$first" ] || say first-error "$id" "$first"
    out=$(exclusive_reason "$conf")
    finish "$id" failed "${first:-${why:-dkms build ended with $code}}${out:+ (its dkms.conf says that it does not apply here, which this dkms does not look at: $out)}"
  fi
  return 0
}

last_id=''
rebuild_id='' rebuild_command=''
status=0
[ -z "${refused:-}" ] || status=1
printf '%s\n' ${targets[@]+"${targets[@]}"} >"$result/targets"
for id in ${targets[@]+"${targets[@]}"}; do
  on_path=()
  build_one "$id" ''
  case ${verdict[$id]} in
    failed) status=1 ;;
    error) [ "$status" -eq 1 ] || status=6 ;;
  esac
done
for id in "${!verdict[@]}"; do
  order+=("$id")
  printf '%s\n%s\n' "${verdict[$id]}" "${reason[$id]}" >"$result/modules/${id%/*}--${id#*/}/verdict"
  case ${verdict[$id]} in failed | error) rebuild_id=$id ;; esac
done

# --- for whoever logs in to look -----------------------------------------------------------------------------------------
[ -n "$rebuild_id" ] || rebuild_id=$last_id
if [ -n "$KEEP" ] && [ -n "$rebuild_id" ]; then
  rebuild_command="dkms build -m '${rebuild_id%/*}' -v '${rebuild_id#*/}' -k '$RELEASE' -j '$JOBS'"
  cat >"$state/rebuild" <<REBUILD
#!/bin/sh
# Written by dkms2bin: the build command of $rebuild_id once more, as it ran.
export LC_ALL=C SOURCE_DATE_EPOCH='$EPOCH' KBUILD_BUILD_TIMESTAMP='$KBUILD_BUILD_TIMESTAMP'
export KBUILD_BUILD_USER=dkms2bin KBUILD_BUILD_HOST=dkms2bin KBUILD_BUILD_VERSION=1
cd / && rm -rf '$tree/$rebuild_id/$RELEASE'
$rebuild_command --force "\$@"
code=\$?
for log in '$tree/$rebuild_id/build/make.log' '$tree/$rebuild_id/$RELEASE'/*/log/make.log; do
  if [ -f "\$log" ]; then echo; echo "\$log:"; tail -n 20 "\$log"; fi
done
echo "dkms build ended with \$code (source: /usr/src/${rebuild_id%/*}-${rebuild_id#*/})"
exit \$code
REBUILD
  chmod 755 "$state/rebuild"
  ln -sf "$state/rebuild" /usr/local/bin/dkms2bin-rebuild
  cat >/etc/profile.d/dkms2bin.sh <<PROFILE
# Written by dkms2bin: an interactive login of root lands where the build was.
case \$- in *i*)
  if [ "\$(id -u)" = 0 ] && [ -z "\${DKMS2BIN_SHOWN:-}" ]; then
    export DKMS2BIN_SHOWN=1
    for folder in '$tree/$rebuild_id/build' '/usr/src/${rebuild_id%/*}-${rebuild_id#*/}'; do
      if [ -d "\$folder" ]; then cd "\$folder"; break; fi
    done
    for log in '$tree/$rebuild_id/build/make.log' '$tree/$rebuild_id/$RELEASE'/*/log/make.log; do
      if [ -f "\$log" ]; then echo "last lines of \$log:"; tail -n 20 "\$log"; break; fi
    done
    echo "$rebuild_id for $RELEASE: edit /usr/src/${rebuild_id%/*}-${rebuild_id#*/}, then run dkms2bin-rebuild"
  fi ;;
esac
PROFILE
  sync
fi
exit "$status"
