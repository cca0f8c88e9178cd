#!/bin/bash
# Brings a DKMS source package and all it depends on into the guest's apt cache, while the network is still there.
# Runs none of the package's code. Run as root, through `bash -s`.
#
# Variables: KIND (repo|deb|rpm|folder|tarball), NAME (package or module name), VERSION (may be empty; a trailing ~ means
#   "starts with"), SRC (path in the guest of the pushed file, or of a folder's or an .rpm's tar; empty for repo), EXTRA (words KIND:SRC,
#   other pushed sources that bring build dependencies), BROUGHT (the names of their modules)
#
# Leaves /var/lib/dkms2bin/fetched-depends (package names, one a line) for build.sh.
#
# Result lines: @@dkms2bin KEY VALUE with KEY one of package, package-version, source-package, depends (a build
#   dependency's package that came along), near (a name or version that exists), error
#
# Exit codes: 0 done · 2 bad variables or unreadable file · 3 not found · 5 network or mirror fault · 8 no space left ·
#   9 apt failed for another reason
set -u
export LC_ALL=C DEBIAN_FRONTEND=noninteractive PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
KIND=${KIND:-} NAME=${NAME:-} VERSION=${VERSION:-} SRC=${SRC:-} EXTRA=${EXTRA:-} BROUGHT=${BROUGHT:-}

say() { local key=$1; shift; printf '@@dkms2bin %s %s\n' "$key" "$(printf '%s' "$*" | tr '\n\t' '  ')"; }
fail() { local code=$1; shift; say error "$*"; exit "$code"; }

work=$(mktemp -d) || fail 8 'no temporary folder'
trap 'rm -rf "$work"' EXIT
aptlog=$work/apt.log
apt_opts=(-y --no-install-recommends -o Acquire::Retries=3 -o Acquire::http::Timeout=60 -o DPkg::Lock::Timeout=300
  -o Acquire::Languages=none -o Dpkg::Use-Pty=0 -o APT::Keep-Downloaded-Packages=true -o Binary::apt-get::APT::Keep-Downloaded-Packages=true)
# An image may clean the cache after each install (docker-clean, cloud-init); what we fetch has to stay.
mkdir -p /etc/apt/apt.conf.d /var/cache/apt/archives/partial /var/lib/dkms2bin
: >/var/lib/dkms2bin/fetched-depends
printf '%s\n' 'DPkg::Post-Invoke { "true"; };' 'APT::Keep-Downloaded-Packages "true";' 'Binary::apt::APT::Keep-Downloaded-Packages "true";' >/etc/apt/apt.conf.d/00dkms2bin-keep

# The link comes up a moment before this runs.
tries=0
while ! grep -q '^[^[:space:]]*[[:space:]]00000000' /proc/net/route && [ "$tries" -lt 60 ]; do
  tries=$((tries + 1))
  sleep 0.5
done

verdict=ok
classify() {
  if grep -qiE 'No space left on device|not have enough free space' "$aptlog"; then verdict=space
  elif grep -qiE '^E: (Unable to locate package|Version .* was not found|Couldn.t find any package)|has no installation candidate|^E: Unable to correct problems|unmet dependencies' "$aptlog"; then verdict=missing
  elif grep -qiE '404 +Not Found' "$aptlog"; then verdict=stale
  elif grep -qiE 'Hash Sum mismatch|File has unexpected size|Failed to fetch|Temporary failure|Could not (resolve|connect)|Connection (failed|timed out|reset|refused)|Mirror sync|50[0-9] +[A-Z]|Unable to connect|Some index files failed' "$aptlog"; then verdict=network
  else verdict=other; fi
}
apt_run() {
  apt-get "${apt_opts[@]}" "$@" </dev/null 2>&1 | tee "$aptlog" | sed -u '$a\'
  if [ "${PIPESTATUS[0]}" -eq 0 ] && ! grep -q '^W: Failed to fetch' "$aptlog"; then verdict=ok; return 0; fi
  classify; return 1
}
give_up() {
  local why; why=$(grep -E '^(E|W|Err)[: ]' "$aptlog" | head -n 3 | tr '\n' ' ')
  case $verdict in
    space) fail 8 "the guest's disk is full: $why" ;;
    network | stale) fail 5 "the mirror did not deliver: $why" ;;
    missing) fail 3 "not installable: $why $(grep -E '^ .*(Depends|Conflicts)' "$aptlog" | head -n 3 | tr '\n' ' ')" ;;
    *) fail 9 "apt failed: ${why:-$(tail -n 2 "$aptlog" | tr '\n' ' ')}" ;;
  esac
}
updated=
apt_update() {
  [ -z "$updated" ] || return 0
  apt_run update || give_up
  updated=1
}
# Downloads with all dependencies, nothing is unpacked or run.
download() {
  apt_run install --download-only "$@" && return 0
  case $verdict in
    missing | stale) if [ -z "$updated" ]; then apt_update; apt_run install --download-only "$@" && return 0; fi ;;
  esac
  return 1
}
versions_of() { apt-cache madison "$1" 2>/dev/null | awk -F'|' '{gsub(/ /, "", $2); print $2}' | uniq; }
# The first (newest) version that is VERSION, with or without Debian revision and epoch, or starts with it.
match_version() {
  local want=$1 v bare
  versions_of "$2" | while read -r v; do
    bare=${v#*:}
    case $want in
      '') echo "$v"; break ;;
      *'~') case $bare in "${want%\~}"*) echo "$v"; break ;; esac
        case $v in "${want%\~}"*) echo "$v"; break ;; esac ;;
      *) if [ "$v" = "$want" ] || [ "$bare" = "$want" ] || [ "${bare%-*}" = "$want" ] || [ "${v%-*}" = "$want" ]; then echo "$v"; break; fi ;;
    esac
  done
}
# BUILD_DEPENDS by text alone: dkms.conf is bash, and it is the package's. Names module "foo" → package "foo-dkms".
fetch_build_depends() {
  local dep
  sed -nE 's/^[[:space:]]*BUILD_DEPENDS(\[[0-9]+\])?\+?=[[:space:]]*//p' "$@" 2>/dev/null | sed 's/#.*//' | tr -s "()\"' \t" '\n' |
    grep -E '^[A-Za-z0-9][A-Za-z0-9+._-]*$' | sort -u >"$work/depends"
  while read -r dep; do
    case " $BROUGHT " in *" $dep "*) continue ;; esac
    for package in "$dep-dkms" "$(printf '%s' "$dep" | tr '_[:upper:]' '-[:lower:]')-dkms"; do
      [ -n "$(versions_of "$package")" ] || continue
      echo "build dependency $dep: $package"
      if download "$package"; then echo "$package" >>/var/lib/dkms2bin/fetched-depends; say depends "$package $(match_version '' "$package")"; break; fi
      case $verdict in missing) ;; *) give_up ;; esac
    done
  done <"$work/depends"
}
confs_of_deb() {
  local member
  dpkg-deb --fsys-tarfile "$1" 2>/dev/null | tar -tf - 2>/dev/null | grep -E '(^|/)dkms\.conf$' >"$work/members"
  while read -r member; do dpkg-deb --fsys-tarfile "$1" | tar -xOf - "$member" 2>/dev/null; echo; done <"$work/members" >"$work/confs"
  fetch_build_depends "$work/confs"
}
confs_of_tree() { # TAR or FOLDER
  [ -f "$1" ] || [ -d "$1" ] || fail 2 "no such file: $1"
  if [ -d "$1" ]; then find "$1" -maxdepth 3 -name dkms.conf -exec cat {} + >"$work/confs"
  else
    tar -tf "$1" >"$work/all" 2>"$work/err" || fail 2 "not a tar archive that tar can read: $(head -n 1 "$work/err")"
    grep -E '(^|/)dkms\.conf$' "$work/all" >"$work/members" || fail 2 'no dkms.conf in the archive'
    tar -xOf "$1" -T "$work/members" >"$work/confs" 2>/dev/null
  fi
  fetch_build_depends "$work/confs"
}

debs=()
for each in $EXTRA; do
  case $each in
    deb:*)
      debs+=("$(readlink -f "${each#*:}")")
      confs_of_deb "${each#*:}" ;;
    *) confs_of_tree "${each#*:}" ;;
  esac
done
[ ${#debs[@]} -eq 0 ] || download "${debs[@]}" || give_up

case $KIND in
  repo)
    case $NAME in '' | -* | *[!a-z0-9+.-]*) fail 2 "not a package name: '$NAME'" ;; esac
    version=$(match_version "$VERSION" "$NAME")
    if [ -z "$version" ]; then
      apt_update
      version=$(match_version "$VERSION" "$NAME")
    fi
    if [ -z "$version" ]; then
      known=$(versions_of "$NAME" | tr '\n' ' ')
      if [ -n "$known" ]; then
        for v in $known; do say near "$NAME=$v"; done
        fail 3 "$NAME has no version $VERSION here; there is $known"
      fi
      # Nearest names: same stem first, then whatever ends in -dkms and shares the first letters.
      stem=${NAME%-dkms}
      { apt-cache pkgnames | grep -F -- "$stem" | grep -- '-dkms$'; apt-cache pkgnames "$(printf '%.3s' "$stem")" | grep -- '-dkms$'; } |
        awk '!seen[$0]++' | head -n 8 | while read -r near; do say near "$near"; done
      fail 3 "no package $NAME in the guest's package sources"
    fi
    if ! download "$NAME=$version"; then
      [ "$verdict" = stale ] || give_up
      version=$(match_version "$VERSION" "$NAME")
      download "$NAME=$version" || give_up
    fi
    say package "$NAME"
    say package-version "$version"
    say source-package "$(apt-cache show "$NAME=$version" 2>/dev/null | awk '/^Source:/ {print $2; f = 1; exit} END {if (!f) print "'"$NAME"'"}')"
    for file in /var/cache/apt/archives/"$NAME"_*.deb; do [ -f "$file" ] && confs_of_deb "$file"; done
    ;;
  deb)
    package=$(dpkg-deb -f "$SRC" Package 2>&1) || fail 2 "not a Debian package: $SRC: $package"
    version=$(dpkg-deb -f "$SRC" Version)
    source=$(dpkg-deb -f "$SRC" Source | sed 's/ .*//')
    download "$(readlink -f "$SRC")" ${debs[@]+"${debs[@]}"} || give_up
    say package "$package"
    say package-version "$version"
    say source-package "${source:-$package}"
    confs_of_deb "$SRC"
    ;;
  folder | tarball | rpm) confs_of_tree "$SRC" ;;
  *) fail 2 "KIND must be repo, deb, rpm, folder or tarball, not '$KIND'" ;;
esac
exit 0
