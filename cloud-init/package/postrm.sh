#!/bin/sh
set -e

release='@RELEASE@'

case "$1" in
  remove | disappear)
    # The kernel may be gone already: depmod must not leave its indexes in a folder that nobody owns.
    if [ -e "${DPKG_ROOT:-}/lib/modules/$release/modules.builtin" ] && command -v depmod >/dev/null; then
      depmod -b "${DPKG_ROOT:-/}" "$release"
    fi
    ;;
esac
