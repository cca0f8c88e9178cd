#!/bin/sh
set -e

release='@RELEASE@'
@INITRAMFS@
# Whether the initramfs holds a module of this package, as far as it can be told.
holds() {
  files=$(lsinitramfs "$initrd" 2>/dev/null || lsinitrd "$initrd" 2>/dev/null) || return 0
  for file in @FILES@; do
    case "$files" in *"/$file"*) return 0 ;; esac
  done
  return 1
}

case "$1" in
  remove | disappear)
    # The kernel may be gone already: depmod must not leave its indexes in a folder that nobody owns.
    if [ -e "${DPKG_ROOT:-}/lib/modules/$release/modules.builtin" ] && command -v depmod >/dev/null; then
      depmod -b "${DPKG_ROOT:-/}" "$release"
      if wanted && holds; then
        # The next package of this kernel does it at the end of the transaction; the last one has nobody left.
        # linux-modules-… is part of Ubuntu's kernel.
        if dpkg-query -W -f '${db:Status-Status} ${Package}\n' "*-modules-$release" 2>/dev/null |
          grep -E '^(installed|triggers-)' | grep -qv ' linux-modules-'; then
          dpkg-trigger --no-await '@TRIGGER@'
        else
          remake
        fi
      fi
    fi
    ;;
esac
