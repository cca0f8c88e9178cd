#!/bin/bash
# Brings a DKMS source package and all it depends on into the guest's apt cache, while the network is still there.
# Runs none of the package's code. Run as root, after lib/common.sh and lib/apt.sh.
#
# Variables: KIND (repo|deb|rpm|folder|tarball), NAME (package or module name), VERSION (may be empty; a trailing ~ means
#   "starts with"), SRC (path in the guest of the pushed file, or of a folder's or an .rpm's tar; empty for repo), EXTRA (words KIND:SRC,
#   other pushed sources that bring build dependencies), BROUGHT (the names of their modules), PROXY (http://host:port for downloads, may be empty),
#   AUTHORITIES (certificates of further authorities that vouch for https mirrors, PEM, may be empty)
#
# Leaves /var/lib/dkms2bin/fetched-depends (package names, one a line) for build.sh.
#
# Result lines: @@dkms2bin KEY VALUE with KEY one of package, package-version, source-package, file (where a repository's package
#   lies now), depends (a build dependency's package that came along), near (a name or version that exists), error
#
# Exit codes (lib/exit-codes.sh): DONE INPUT NOT_FOUND NETWORK DISK_FULL PACKAGE_MANAGER
KIND=${KIND:-} NAME=${NAME:-} VERSION=${VERSION:-} SRC=${SRC:-} EXTRA=${EXTRA:-} BROUGHT=${BROUGHT:-}
check_source
check_url PROXY "${PROXY:-}"

work=$(mktemp -d) || fail "$E_DISK_FULL" 'no temporary folder'
at_exit 'rm -rf "$work"'
log=$work/apt.log
trust_authorities
apt_opts+=(-o APT::Keep-Downloaded-Packages=true -o Binary::apt-get::APT::Keep-Downloaded-Packages=true)
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

# Downloads with all dependencies, nothing is unpacked or run.
download() { try apt-get "${apt_opts[@]}" install --download-only "$@"; }
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
      case $outcome in missing) ;; *) give_up ;; esac
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
  [ -f "$1" ] || [ -d "$1" ] || fail "$E_INPUT" "no such file: $1"
  if [ -d "$1" ]; then find "$1" -maxdepth 3 -name dkms.conf -exec cat {} + >"$work/confs"
  else
    tar -tf "$1" >"$work/all" 2>"$work/err" || fail "$E_INPUT" "not a tar archive that tar can read: $(head -n 1 "$work/err")"
    grep -E '(^|/)dkms\.conf$' "$work/all" >"$work/members" || fail "$E_INPUT" 'no dkms.conf in the archive'
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
    [ -n "$NAME" ] || fail "$E_INPUT" 'NAME is empty'
    version=$(match_version "$VERSION" "$NAME")
    if [ -z "$version" ]; then
      apt_update
      version=$(match_version "$VERSION" "$NAME")
    fi
    if [ -z "$version" ]; then
      known=$(versions_of "$NAME" | tr '\n' ' ')
      if [ -n "$known" ]; then
        for v in $known; do say near "$NAME=$v"; done
        fail "$E_NOT_FOUND" "$NAME has no version $VERSION here; there is $known"
      fi
      # Nearest names: same stem first, then whatever ends in -dkms and shares the first letters.
      stem=${NAME%-dkms}
      { apt-cache pkgnames | grep -F -- "$stem" | grep -- '-dkms$'; apt-cache pkgnames "$(printf '%.3s' "$stem")" | grep -- '-dkms$'; } |
        awk '!seen[$0]++' | head -n 8 | while read -r near; do say near "$near"; done
      fail "$E_NOT_FOUND" "no package $NAME in the guest's package sources"
    fi
    if ! download "$NAME=$version"; then
      [ "$outcome" = stale ] || give_up
      version=$(match_version "$VERSION" "$NAME")
      download "$NAME=$version" || give_up
    fi
    say package "$NAME"
    say package-version "$version"
    say source-package "$(apt-cache show "$NAME=$version" 2>/dev/null | awk '/^Source:/ {print $2; f = 1; exit} END {if (!f) print "'"$NAME"'"}')"
    for file in /var/cache/apt/archives/"$NAME"_*.deb; do
      [ -f "$file" ] || continue
      [ "$(dpkg-deb -f "$file" Version)" != "$version" ] || say file "$file"
      confs_of_deb "$file"
    done
    ;;
  deb)
    package=$(dpkg-deb -f "$SRC" Package 2>&1) || fail "$E_INPUT" "not a Debian package: $SRC: $package"
    version=$(dpkg-deb -f "$SRC" Version)
    source=$(dpkg-deb -f "$SRC" Source | sed 's/ .*//')
    download "$(readlink -f "$SRC")" ${debs[@]+"${debs[@]}"} || give_up
    say package "$package"
    say package-version "$version"
    say source-package "${source:-$package}"
    confs_of_deb "$SRC"
    ;;
  folder | tarball | rpm) confs_of_tree "$SRC" ;;
esac
exit "$E_DONE"
