#!/bin/sh
set -e

release='@RELEASE@'
module='@MODULE@'
root=${DPKG_ROOT:-}

refuse() {
  echo "$DPKG_MAINTSCRIPT_PACKAGE is not installed: $1" >&2
  echo "$2" >&2
  exit 1
}

# The package that a file belongs to; nothing when it belongs to none.
owner() {
  dpkg-query -S "$1" 2>/dev/null | sed -n '1s/^\([^:,]*\).*/\1/p'
}

case "$1" in
  install | upgrade)
    # What dkms has, it builds again for each kernel, over the modules of this package.
    for source in "$root/var/lib/dkms/$module"/*/source; do
      if [ ! -e "$source" ] && [ ! -L "$source" ]; then continue; fi
      version=${source%/source}
      version=${version##*/}
      folder=$(readlink "$source" || echo "/usr/src/$module-$version")
      package=$(owner "$folder/dkms.conf")
      if [ -n "$package" ]; then
        refuse "dkms has $module/$version of the package $package, and would put its own build in the place of this one." \
          "Remove that package first: apt-get remove $package"
      fi
      refuse "dkms has $module/$version from $folder, and would put its own build in the place of this one." \
        "Take it from dkms first: dkms remove $module/$version --all"
    done
    for file in @FILES@; do
      for suffix in '' .gz .xz .zst; do
        path=/lib/modules/$release/updates/dkms/$file$suffix
        if [ ! -e "$root$path" ] || [ -n "$(owner "$path")" ]; then continue; fi
        refuse "$path is there already and belongs to no package." \
          "If nothing needs it any more, remove it first: rm $path"
      done
    done
    ;;
esac
