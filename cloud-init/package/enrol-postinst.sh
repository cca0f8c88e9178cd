#!/bin/sh
set -e

. /usr/share/debconf/confmodule

name='@NAME@'
certificate="/usr/share/module-keys/$name.der"

tell() {
  echo "$name: $*" >&2
}

# mokutil does the rest: it leaves the request for the firmware's MOK manager, which asks at the next start.
enrol() {
  if [ ! -d /sys/firmware/efi/efivars ]; then
    tell "there is no UEFI firmware with keys here; later, if there is one: dpkg-reconfigure $name"
    return
  fi
  case $(mokutil --test-key "$certificate" 2>&1 || true) in
    *'already enrolled'* | *'already in'*) return ;;
  esac
  db_get "$name/password"
  if [ -z "$RET" ]; then
    tell "to enrol the certificate, choose a password, reboot and confirm at the console: mokutil --import $certificate"
  elif printf '%s\n%s\n' "$RET" "$RET" | mokutil --import "$certificate" >&2; then
    tell 'reboot; before the system starts, choose "Enroll MOK" at the console and type the password'
  else
    tell "mokutil failed; what it needs may be missing here. Once it is there: mokutil --import $certificate"
  fi
}

if [ "$1" = configure ]; then
  # What is purged is gone from /usr, and mokutil wants the file.
  mkdir -p "/var/lib/$name"
  cp "$certificate" "/var/lib/$name/certificate.der"
  enrol
  db_set "$name/password" ''
fi
