#!/bin/bash
# Downloads the newest kernel of Debian's backports whose release an .rpm can require (VERSION-RELEASE has one dash): image,
# headers and what they are made of, by an apt with a folder of its own. No privilege; mirror and proxy are this host's.
# usage: kernel-debs.sh FOLDER SUITE        prints the kernel release
# Leaves FOLDER/debs, and in FOLDER/apt an apt.conf by which APT_CONFIG gives others the same apt.
set -euo pipefail
folder=$(realpath -m "$1") suite=$2
own=$folder/apt
mkdir -p "$own/lists/partial" "$own/archives/partial" "$own/parts" "$folder/debs"
: >"$own/status"
mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' | grep -v -- '-security/*$' | head -n 1)
keyring=/usr/share/keyrings/debian-archive-keyring.gpg
{ echo "deb [signed-by=$keyring] $mirror $suite main"; echo "deb [signed-by=$keyring] $mirror ${suite%-backports} main"; } >"$own/sources.list"
cat >"$own/apt.conf" <<CONF
Dir::State "$own";
Dir::State::status "$own/status";
Dir::Cache "$own";
Dir::Etc::SourceList "$own/sources.list";
Dir::Etc::SourceParts "$own/parts";
APT::Architecture "amd64";
APT::Architectures "amd64";
APT::Sandbox::User "";
Acquire::Languages "none";
CONF
export APT_CONFIG=$own/apt.conf
apt-get -qq update >&2
release=$(apt-cache pkgnames linux-image- | sed -nE 's/^linux-image-([0-9.]+\+deb[0-9]+-amd64)$/\1/p' | sort -V | tail -n 1)
[ -n "$release" ]
wanted=$(apt-cache depends --recurse --no-recommends --no-suggests --no-conflicts --no-breaks --no-replaces --no-enhances \
  "linux-headers-$release" | grep -xE "linux-(headers|kbuild)-.*")
cd "$folder/debs"
# shellcheck disable=SC2086 # a list
apt-get -qq download "linux-image-$release" $wanted >&2
echo "$release"
