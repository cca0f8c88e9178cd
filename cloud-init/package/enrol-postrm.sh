#!/bin/sh
set -e

name='@NAME@'
certificate="/var/lib/$name/certificate.der"

tell() {
  echo "$name: $*" >&2
}

remove() {
  if ! command -v mokutil >/dev/null; then
    tell "mokutil is not installed: the firmware may still trust the certificate with the SHA-1 $(sha1sum <"$certificate" | cut -c1-40)"
    return
  fi
  case $(mokutil --test-key "$certificate" 2>&1 || true) in
    *'already in'*)
      # All that waits for the next start is taken back at once: only when this is all.
      if [ "$(mokutil --list-new 2>/dev/null | grep -c '^\[key ')" = 1 ]; then
        mokutil --revoke-import >&2 && return
      fi
      tell 'the certificate still waits to be enrolled: refuse it at the next start, or: mokutil --revoke-import'
      ;;
    *'already enrolled'*)
      password=
      if [ -e /usr/share/debconf/confmodule ]; then
        db_input high "$name/remove-password" || true
        db_go || true
        db_get "$name/remove-password" && password=$RET
      fi
      cp "$certificate" "/root/$name.der"
      if [ -n "$password" ] && printf '%s\n%s\n' "$password" "$password" | mokutil --delete "$certificate" >&2; then
        rm -f "/root/$name.der"
        tell 'reboot; before the system starts, choose "Delete MOK" at the console and type the password'
      else
        tell "the certificate is still enrolled; to remove it: mokutil --delete /root/$name.der"
      fi
      ;;
  esac
}

if [ "$1" = purge ]; then
  if [ -e /usr/share/debconf/confmodule ]; then
    . /usr/share/debconf/confmodule
  fi
  if [ -e "$certificate" ] && [ -d /sys/firmware/efi/efivars ]; then
    remove
  fi
  rm -rf "/var/lib/$name"
  if [ -e /usr/share/debconf/confmodule ]; then
    db_purge
  fi
fi
