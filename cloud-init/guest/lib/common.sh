#!/bin/bash
# The prelude of build.sh, fetch-source.sh and the install-kernel programs. The host sends their variables, exit-codes.sh, this,
# and the program, as one text.
# shellcheck disable=SC1003,SC2034
set -u
# rpm keeps its database below HOME, which is the host user's when a layer is made on the host.
export HOME=/root
# So is its TMPDIR, which names no folder here.
unset TMPDIR
export LC_ALL=C DEBIAN_FRONTEND=noninteractive PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin

# A word that only the host and this program know: without it nothing that a package prints is a result line. It comes on
# descriptor 9, which no child inherits; without a host that gives one there is none.
NONCE=''
{ read -r NONCE <&9; } 2>/dev/null
exec 9<&-

# Every process that starts costs 50 to 100 ms under emulation: builtins wherever the common path goes.
# say KEY TEXT…: a result line.
say() { local key=$1 text; shift; text=${*//[$'\n\t\r']/ }; printf '@@dkms2bin%s %s %s\n' "${NONCE:+:$NONCE}" "$key" "${text:0:2000}"; }
# fail CODE TEXT…: the last one.
fail() { local code=$1; shift; say error "$*"; exit "$code"; }

# at_exit COMMAND: runs when the program ends. A subshell that is killed as it starts runs the trap of the shell that it is of, and there
# [ ] and || are not what they are elsewhere: bash takes each command for one in the background.
at_exit() { trap "case \$BASHPID in \$\$) $1 ;; esac" EXIT; }

check_release() {
  case $RELEASE in '' | *[!A-Za-z0-9.+~_-]*) fail "$E_INPUT" "RELEASE is not a kernel release: '$RELEASE'" ;; esac
}

# check_url NAME VALUE: nothing, or an http URL that stays one word in whatever file or command it comes to. Brackets are for
# addresses, $ and braces for the variables of dnf.
check_url() {
  case $2 in
    '') ;;
    http://?* | https://?*) case $2 in *[!]A-Za-z0-9[/?\&=+._~%:,@\$\{\}-]*) fail "$E_INPUT" "$1 is not a URL: '$2'" ;; esac ;;
    *) fail "$E_INPUT" "$1 is not an http URL: '$2'" ;;
  esac
}
# check_words NAME VALUE: suites and components, with blanks between.
check_words() {
  case $2 in *[!A-Za-z0-9._~/\ -]* | -* | *' -'* | *..*) fail "$E_INPUT" "$1 has a word that cannot be used: '$2'" ;; esac
}
# check_sources NAME VALUE: lines `deb URL SUITE COMPONENT…` of apt, without options: `[trusted=yes]` is one.
check_sources() {
  local line word url rest
  while IFS= read -r line; do
    [ -n "$line" ] || continue
    read -r word url rest <<<"$line"
    [ "$word" = deb ] && [ -n "$url" ] && [ -n "$rest" ] || fail "$E_INPUT" "$1 has a line that is none of apt's: '$line'"
    check_url "$1" "$url"
    check_words "$1" "$rest"
  done <<<"$2"
}
# check_path NAME VALUE: an absolute path in plain characters.
check_path() { case $2 in /*) case $2 in *[!A-Za-z0-9/._+~:-]* | *..*) ;; *) return ;; esac ;; esac; fail "$E_INPUT" "$1 is not a path: '$2'"; }
# check_package NAME VALUE and check_version NAME VALUE: nothing, or a package's name or version, with a ~ for "starts with".
check_package() { case $2 in [!A-Za-z0-9]* | *[!A-Za-z0-9.+_-]*) fail "$E_INPUT" "$1 is not a package name: '$2'" ;; esac; }
check_version() { case $2 in [!A-Za-z0-9]* | *[!A-Za-z0-9.+_~^:-]*) fail "$E_INPUT" "$1 is not a version: '$2'" ;; esac; }
# check_source: the variables that name a source.
check_source() {
  local each
  check_package NAME "$NAME"
  check_version VERSION "$VERSION"
  case $KIND in repo | deb | rpm | folder | tarball) ;; *) fail "$E_INPUT" "KIND must be repo, deb, rpm, folder or tarball, not '$KIND'" ;; esac
  [ -z "$SRC" ] || check_path SRC "$SRC"
  for each in $EXTRA; do
    case $each in deb:* | rpm:* | folder:* | tarball:*) check_path EXTRA "${each#*:}" ;; *) fail "$E_INPUT" "EXTRA has a word that is no source: '$each'" ;; esac
  done
  for each in ${BROUGHT-}; do check_package BROUGHT "$each"; done
}

# Boots from a layer go past the loader, so the EFI partition is not needed. On a slow machine systemd gives its device up after 90 s,
# and with it the whole boot.
forget_esp() {
  [ ! -f /etc/fstab ] || sed -i -E 's,^[^#[:space:]]+[[:space:]]+(/boot)?/efi[[:space:]],# &,' /etc/fstab
}

# Certificates of authorities that the image does not know (AUTHORITIES, PEM) and those that it knows, as one file in the folder $work;
# prints its path, and nothing without AUTHORITIES.
trusted_file() {
  local known
  [ -n "${AUTHORITIES:-}" ] || return 0
  for known in /etc/ssl/certs/ca-certificates.crt /etc/pki/tls/certs/ca-bundle.crt /etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem \
    /var/lib/ca-certificates/ca-bundle.pem /etc/ssl/ca-bundle.pem; do
    if [ -s "$known" ]; then break; fi
  done
  # apt reads it as another user.
  chmod 755 "$work"
  { cat "$known" 2>/dev/null; echo; printf '%s\n' "$AUTHORITIES"; } >"$work/authorities.pem"
  echo "$work/authorities.pem"
}

# --- one run of a package manager ---------------------------------------------------------------------------------------
# The program defines, for its package manager:
#   judge CODE       sets outcome to ok, missing, stale, network, space or other, by the exit code and by $log
#   worth_again N    whether the N-th run in a row may have failed for something that has passed or was mended meanwhile
#   complaints       prints why the last one failed, in a line
outcome=ok
# Result lines `progress` while bytes come in or a processor is at work: a large file and a long script print nothing.
watch_progress() {
  local name bytes now busy user nice system was_bytes='' was_busy=0
  while sleep 10 >/dev/null 2>&1; do
    now=0
    while read -r name bytes _; do case $name in *:) [ "$name" = lo: ] || now=$((now + bytes)) ;; esac; done </proc/net/dev
    read -r _ user nice system _ </proc/stat
    busy=$((user + nice + system))
    # In hundredths of a second.
    if [ -n "$was_bytes" ] && { [ $((now - was_bytes)) -gt 10000 ] || [ $((busy - was_busy)) -gt 200 ]; }; then say progress; fi
    was_bytes=$now was_busy=$busy
  done
}
# Prints what the command prints, and keeps it in $log.
once() {
  local code watcher
  watch_progress &
  watcher=$!
  "$@" </dev/null 2>&1 | tee "$log" | sed -u '$a\'
  code=${PIPESTATUS[0]}
  kill "$watcher" 2>/dev/null
  wait "$watcher" 2>/dev/null
  judge "$code"
  [ "$outcome" = ok ]
}
try() {
  local n
  for ((n = 1; ; n++)); do
    once "$@" && return 0
    worth_again "$n" || return 1
  done
}
give_up() {
  local why; why=$(complaints)
  why=${why:-$(tail -n 2 "$log" | tr '\n' ' ')}
  case $outcome in
    space) fail "$E_DISK_FULL" "the guest's disk is full: $why" ;;
    network | stale) fail "$E_NETWORK" "the mirror did not deliver: $why" ;;
    missing) fail "$E_NOT_FOUND" "not installable: $why" ;;
    *) fail "$E_PACKAGE_MANAGER" "$manager failed: $why" ;;
  esac
}
