#!/bin/bash
# The prelude of build.sh, fetch-source.sh and the install-kernel programs. The host sends their variables, exit-codes.sh, this,
# and the program, as one text.
# shellcheck disable=SC1003,SC2034
set -u
# rpm keeps its database below HOME, which is the host user's when a layer is made on the host.
export HOME=/root
export LC_ALL=C DEBIAN_FRONTEND=noninteractive PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin

# Every process that starts costs 50 to 100 ms under emulation: builtins wherever the common path goes.
# say KEY TEXT…: a result line.
say() { local key=$1 text; shift; text=${*//[$'\n\t\r']/ }; printf '@@dkms2bin %s %s\n' "$key" "${text:0:2000}"; }
# fail CODE TEXT…: the last one.
fail() { local code=$1; shift; say error "$*"; exit "$code"; }

check_release() {
  case $RELEASE in '' | *[!A-Za-z0-9.+~_-]*) fail "$E_INPUT" "RELEASE is not a kernel release: '$RELEASE'" ;; esac
}

# --- one run of a package manager ---------------------------------------------------------------------------------------
# The program defines, for its package manager:
#   judge CODE       sets outcome to ok, missing, stale, network, space or other, by the exit code and by $log
#   worth_again N    whether the N-th run in a row may have failed for something that has passed or was mended meanwhile
#   complaints       prints why the last one failed, in a line
outcome=ok
# Prints what the command prints, and keeps it in $log.
once() {
  "$@" </dev/null 2>&1 | tee "$log" | sed -u '$a\'
  judge "${PIPESTATUS[0]}"
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
