# Of build.sh: dkms.conf, read the way dkms reads it.
# read_conf FOLDER: puts lines "KEY value" for what we need of the folder's dkms.conf into $conf. A folder's is read once.
read_conf() {
  [ -n "${confs[$1]:-}" ] || confs[$1]=$(conf_of "$1")
  conf=${confs[$1]}
}
conf_of() {
  (
    set +u
    # shellcheck disable=SC2034 # dkms.conf may use them
    kernelver=$RELEASE kernel_source_dir=/lib/modules/$RELEASE/build dkms_tree=$tree source_tree=/usr/src
    unset NONCE PACKAGE_NAME PACKAGE_VERSION BUILD_DEPENDS "${!BUILD_EXCLUSIVE_@}" OBSOLETE_BY POST_ADD
    cd "$1" || exit 1
    exec 3>&1
    # shellcheck disable=SC1091
    . ./dkms.conf >/dev/null 2>&1 </dev/null
    # dkms from 3.1.5 on takes the carriage return of a Windows line end off each value. An older one does not, and fails.
    for key in PACKAGE_NAME PACKAGE_VERSION BUILD_EXCLUSIVE_KERNEL BUILD_EXCLUSIVE_KERNEL_MIN BUILD_EXCLUSIVE_KERNEL_MAX \
      BUILD_EXCLUSIVE_ARCH BUILD_EXCLUSIVE_CONFIG OBSOLETE_BY POST_ADD; do
      value=${!key%$'\r'}
      [ -z "$value" ] || printf '%s %s\n' "$key" "${value//$'\n'/ }" >&3
    done
    for key in "${BUILD_DEPENDS[@]}"; do
      for word in ${key%$'\r'}; do printf 'BUILD_DEPENDS %s\n' "$word" >&3; done
    done
    case $(<dkms.conf) in *$'\r\n'* | *$'\r') echo 'CRLF yes' >&3 ;; esac
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

# obsolete_by VARIABLE: the OBSOLETE_BY of $conf when dkms would install nothing for this kernel because of it, or nothing. As its
# check_version_sanity does: the kernel is newer, or the same one with an ABI number that is not older.
obsolete_by() {
  local by base own abi
  printf -v "$1" ''
  conf_value by OBSOLETE_BY
  [ -n "$by" ] || return 0
  base=${by%%-*} own=${RELEASE%%-*}
  if [ "$own" = "$base" ]; then
    case $by in
      *-*)
        abi=${by#*-} own=${RELEASE#*-}
        ordered "${abi%%-*}" "${own%%-*}" || return 0 ;;
    esac
  else ordered "$base" "$own" || return 0; fi
  printf -v "$1" '%s' "$by"
}
