#!/bin/sh
set -e

release='@RELEASE@'

case "$1" in
  configure | abort-upgrade | abort-remove | abort-deconfigure)
    # Without the kernel's own files (dpkg may configure us while it is being removed) depmod would only complain.
    if [ -e "${DPKG_ROOT:-}/lib/modules/$release/modules.builtin" ] && command -v depmod >/dev/null; then
      depmod -b "${DPKG_ROOT:-/}" "$release"
    fi
    ;;
esac
