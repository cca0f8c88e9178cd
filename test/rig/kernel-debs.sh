#!/bin/bash
# Downloads the newest kernel of Debian's backports whose release an .rpm can require (VERSION-RELEASE has one dash): image,
# headers and what they are made of, by an apt with a folder of its own. No privilege; mirror and proxy are this host's.
# usage: kernel-debs.sh FOLDER SUITE [ARCH]        prints the kernel release
# Leaves FOLDER/debs, and in FOLDER/apt an apt.conf by which APT_CONFIG gives others the same apt.
set -euo pipefail
folder=$(realpath -m "$1") suite=$2 arch=${3:-amd64}
mkdir -p "$folder/debs"
. "$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")/own-apt.sh"
own_apt "$folder/apt" "$suite" "$arch"
release=$(apt-cache pkgnames linux-image- | sed -nE 's/^linux-image-([0-9.]+\+deb[0-9]+-'"$arch"')$/\1/p' | sort -V | tail -n 1)
[ -n "$release" ]
wanted=$(apt-cache depends --recurse --no-recommends --no-suggests --no-conflicts --no-breaks --no-replaces --no-enhances \
  "linux-headers-$release" | grep -xE "linux-(headers|kbuild)-.*")
cd "$folder/debs"
# shellcheck disable=SC2086 # a list
apt-get -qq download "linux-image-$release" $wanted >&2
echo "$release"
