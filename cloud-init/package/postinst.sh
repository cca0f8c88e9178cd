#!/bin/sh
set -e

release='@RELEASE@'
@INITRAMFS@
case "$1" in
  configure | abort-upgrade | abort-remove | abort-deconfigure)
    # Without the kernel's own files (dpkg may configure us while it is being removed) depmod would only complain.
    if [ -e "${DPKG_ROOT:-}/lib/modules/$release/modules.builtin" ] && command -v depmod >/dev/null; then
      depmod -b "${DPKG_ROOT:-/}" "$release"
    fi
    # At the end of the transaction, for all packages of this kernel together.
    if wanted; then dpkg-trigger --no-await '@TRIGGER@'; fi
    ;;
  triggered)
    # Another package may have made it again by now.
    if wanted && [ -z "$(find "$initrd" -newer "/lib/modules/$release/modules.dep")" ]; then remake; fi
    ;;
esac
