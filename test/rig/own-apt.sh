# shellcheck shell=bash
# Sourced by the scripts beside it.

# own_apt FOLDER SUITE [ARCH]: an apt with a folder of its own, whose lists are fetched; APT_CONFIG gives others the same. Mirror and proxy are
# this host's.
own_apt() {
  local own=$1 suite=$2 arch=${3:-amd64} mirror keyring=/usr/share/keyrings/debian-archive-keyring.gpg
  mkdir -p "$own/lists/partial" "$own/archives/partial" "$own/parts"
  : >"$own/status"
  mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' | grep -v -- '-security/*$' | head -n 1)
  printf "deb [signed-by=$keyring] $mirror %s main\n" "$suite" "${suite%-backports}" | sort -u >"$own/sources.list"
  cat >"$own/apt.conf" <<CONF
Dir::State "$own";
Dir::State::status "$own/status";
Dir::Cache "$own";
Dir::Etc::SourceList "$own/sources.list";
Dir::Etc::SourceParts "$own/parts";
APT::Architecture "$arch";
APT::Architectures "$arch";
APT::Sandbox::User "";
Acquire::Languages "none";
CONF
  export APT_CONFIG=$own/apt.conf
  apt-get -qq update >&2
}
