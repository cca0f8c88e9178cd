#!/bin/bash
# What the distro's own dkms does with a source, as a person would have it: dkms add, build, install. Runs in a root folder.
# usage: native.sh RELEASE FOLDER…          the last one is the one that it is about
#        native.sh RELEASE --package NAME   a package of the distro, which is installed with all that it depends on; what it brings itself
#                                           is built
# Leaves in /var/lib/native what adding printed, and its exit code: add.out, add.code; and for each module that was added N.build
# and N.install likewise.
release=$1
shift
# What dkms2bin puts into its images.
rm -f /etc/dkms/framework.conf.d/dkms2bin.conf
# Not by the package's own script: it would build for the kernel that runs on this host.
mkdir -p /var/lib/native /etc/dkms
: >/etc/dkms/no-autoinstall
step() { # NAME COMMAND…
  local name=$1
  shift
  "$@" >"/var/lib/native/$name.out" 2>&1 </dev/null
  echo $? >"/var/lib/native/$name.code"
}
added() { ls -d /var/lib/dkms/*/*/source 2>/dev/null | sort; }
build_added() { # of the sources that were not there BEFORE those whose folders are in FOLDERS, a line each; all, if that is empty
  local n=0 id
  for id in $(comm -13 <(echo "$1") <(added)); do
    [ -z "$2" ] || grep -qxF "$(readlink -f "$id")" <<<"$2" || continue
    n=$((n + 1)) id=${id#/var/lib/dkms/} id=${id%/source}
    step "$n.build" dkms build -m "${id%%/*}" -v "${id#*/}" -k "$release"
    # Nobody installs what did not build.
    [ "$(cat "/var/lib/native/$n.build.code")" = 0 ] || continue
    step "$n.install" dkms install -m "${id%%/*}" -v "${id#*/}" -k "$release"
  done
}
before=$(added)
if [ "$1" = --package ]; then
  export DEBIAN_FRONTEND=noninteractive
  step add apt-get -y -o APT::Sandbox::User=root --no-install-recommends install "$2"
  # With that file some packages do not even add their source.
  for conf in /usr/src/*/dkms.conf; do
    dkms add "${conf%/dkms.conf}" </dev/null
  done >/var/lib/native/more.out 2>&1
  build_added "$before" "$(dpkg -L "$2" | sed -n 's|^\(/usr/src/[^/]*\)/dkms\.conf$|\1|p')"
  exit 0
fi
for folder; do
  rm -f /var/lib/native/*
  before=$(added)
  step add dkms add "$folder"
  build_added "$before" ''
done
