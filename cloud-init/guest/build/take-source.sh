# Of build.sh: how the package's source gets to /usr/src and its modules to dkms. Nothing is built yet (/etc/dkms/no-autoinstall).
# Sets package, sources, brought, targets.
added_modules() { local link; for link in "$tree"/*/*/source; do if [ -e "$link" ]; then link=${link%/source}; echo "${link#"$tree"/}"; fi; done; }
conf_folders() { local conf; for conf in /usr/src/*/dkms.conf; do if [ -f "$conf" ]; then echo "${conf%/dkms.conf}"; fi; done; }
apt_offline() {
  apt-get -y --no-install-recommends --no-download -o Dpkg::Use-Pty=0 -o Dpkg::Options::=--force-confdef -o Dpkg::Options::=--force-confold \
    -o Dpkg::Options::=--force-unsafe-io -o DPkg::Lock::Timeout=120 install "$@" </dev/null 2>&1
}
install_debs() {
  if apt_offline "$@" | tee "$state/apt.log" | sed -u '$a\'; [ "${PIPESTATUS[0]}" -eq 0 ]; then return 0; fi
  disk_full && fail "$E_DISK_FULL" "the guest's disk is full"
  fail "$E_NOT_INSTALLED" "the package did not install: $(grep -E '^(E:|dpkg: error)|^ .*Depends' "$state/apt.log" | head -n 3 | tr '\n' ' ')"
}

# The package's files without its scripts, which would run dkms for 8 s of emulation. The list goes to $state/files.
fsys_tar() { case $1 in *.deb) dpkg-deb --fsys-tarfile "$1" ;; *) cat "$1" ;; esac; }
unpack_package() { # FILE: a .deb, or a tar of all files of an .rpm
  fsys_tar "$1" | tar -C / -xv --quoting-style=literal --keep-directory-symlink --no-overwrite-dir -f - >"$state/files" 2>"$state/tar.log"
  case ${PIPESTATUS[*]} in '0 0') return 0 ;; esac
  disk_full && fail "$E_DISK_FULL" "the guest's disk is full"
  fail "$E_NOT_INSTALLED" "the package did not unpack: $(head -n 1 "$state/tar.log")"
}

add_folder() { # FOLDER: register it with dkms
  local folder=$1 conf name version after
  read_conf "$folder"
  conf_value name PACKAGE_NAME
  conf_value version PACKAGE_VERSION
  conf_value after POST_ADD
  if [ -z "$name" ] || [ -z "$version" ]; then echo "no PACKAGE_NAME or PACKAGE_VERSION in $folder/dkms.conf"; return 1; fi
  confs[$tree/$name/$version/source]=$conf
  [ -e "$tree/$name/$version/source" ] && return 0
  # A file in /etc/dkms may override what dkms.conf says.
  if [ "$folder" = "/usr/src/$name-$version" ] && [ -z "$after" ] && ! compgen -G "/etc/dkms/$name*.conf" >/dev/null; then
    # All that `dkms add` leaves, in 2.8 to 3.2; it takes 3 s.
    mkdir -p "$tree/$name/$version/build" && ln -sfn "$folder" "$tree/$name/$version/source"
  else
    local args=("$folder")
    [ "$folder" != "/usr/src/$name-$version" ] || args=(-m "$name" -v "$version")
    dkms add "${args[@]}" </dev/null >"$state/add.out" 2>&1 || why_not_added[$name/$version]=$(dkms_error "$state/add.out")
    cat "$state/add.out"
    [ -e "$tree/$name/$version/source" ]
  fi
}
unpack_source() { # FOLDER: copy an unpacked source to /usr/src/NAME-VERSION
  local folder=$1 conf name version to
  # A link out of the folder would lead nowhere once the folder is moved.
  to=$(readlink -f "$folder/dkms.conf")
  case $to in "$folder"/*) ;; *) cp --remove-destination "$to" "$folder/dkms.conf" ;; esac
  # Sources before packaging carry dh_dkms's placeholder, or no version at all.
  if [ -n "$VERSION" ]; then
    sed -i "s/#MODULE_VERSION#/$(printf '%s' "$VERSION" | sed 's/[&\/\\]/\\&/g')/" "$folder/dkms.conf"
    grep -q '^[[:space:]]*PACKAGE_VERSION=' "$folder/dkms.conf" || printf '\nPACKAGE_VERSION="%s"\n' "$VERSION" >>"$folder/dkms.conf"
  fi
  conf=$(conf_of "$folder")
  conf_value name PACKAGE_NAME
  conf_value version PACKAGE_VERSION
  [ -n "$name" ] || fail "$E_NO_MODULE" "dkms.conf sets no PACKAGE_NAME"
  case $name$version in */* | *' '* | *'#'*) fail "$E_NO_MODULE" "dkms.conf's name or version cannot be used: '$name' '$version'" ;; esac
  [ -n "$version" ] || fail "$E_NO_MODULE" "dkms.conf sets no PACKAGE_VERSION"
  [ ! -e "/usr/src/$name-$version" ] || rm -rf "/usr/src/$name-$version"
  mv "$folder" "/usr/src/$name-$version" || fail "$E_DISK_FULL" "cannot move the source to /usr/src/$name-$version"
  sources+=("/usr/src/$name-$version")
  [ -n "$package" ] || { package=$name; package_version=$version; }
}

take_deb() { # FILE [PACKAGE…]: install FILE with those packages, or unpack it
  local path file=$1
  shift
  if [ -n "$fetched" ]; then
    install_debs "$(readlink -f "$file")" "$@"
    dpkg -L "$(dpkg-deb -f "$file" Package)" >"$state/files"
  else unpack_package "$file"; fi
  find_sources
}
find_sources() { # adds to sources what $state/files lists
  local path
  while read -r path; do
    path=${path#.} path=/${path#/}
    case $path in
      /usr/src/*/*/dkms.conf) ;;
      /usr/src/*/dkms.conf) sources+=("${path%/dkms.conf}") ;;
    esac
  done <"$state/files"
}
take_tree() { # TAR
  local unpacked=$state/unpacked depth='' found conf
  [ ! -e "$unpacked" ] || rm -rf "$unpacked"
  mkdir -p "$unpacked"
  tar -C "$unpacked" --no-same-owner -xf "$1" 2>"$state/tar.log" || {
    disk_full && fail "$E_DISK_FULL" "the guest's disk is full"
    fail "$E_INPUT" "cannot unpack $1: $(head -n 1 "$state/tar.log")"
  }
  if [ -f "$unpacked/dkms.conf" ]; then unpack_source "$unpacked"
  elif [ -f "$unpacked/dkms_source_tree/dkms.conf" ]; then unpack_source "$unpacked/dkms_source_tree"
  elif [ -f "$unpacked/dkms_binaries_only/dkms.conf" ]; then fail "$E_NO_MODULE" 'the tarball holds binaries only (dkms mktarball --binaries-only): there is nothing to build'
  else
    while read -r found conf; do
      [ -n "$depth" ] || depth=$found
      [ "$found" = "$depth" ] || break
      unpack_source "${conf%/dkms.conf}"
    done < <(find "$unpacked" -name dkms.conf -xtype f -printf '%d %p\n' | sort -k1,1n -k2)
  fi
  [ ! -e "$unpacked" ] || rm -rf "$unpacked"
}

# What other sources bring, for the package's build dependencies.
bring() {
  local VERSION='' each folder conf name version
  for each in $EXTRA; do
    case $each in
      deb:*) take_deb "${each#*:}" ;;
      rpm:*) unpack_package "${each#*:}"; find_sources ;;
      *) take_tree "${each#*:}" ;;
    esac
  done
  for folder in ${sources[@]+"${sources[@]}"}; do
    add_folder "$folder" || continue
    read_conf "$folder"
    conf_value name PACKAGE_NAME
    conf_value version PACKAGE_VERSION
    brought+=("$name/$version")
  done
  sources=() package='' package_version=''
}

# The package that this run is about; its modules are added to dkms.
take_package() {
  case $KIND in
    repo | deb)
      file=$SRC
      if [ "$KIND" = repo ]; then
        [ -n "$NAME" ] || fail "$E_INPUT" 'NAME is empty'
        file='' best=''
        for candidate in /var/cache/apt/archives/"$NAME"_*.deb; do
          [ -f "$candidate" ] || continue
          v=$(dpkg-deb -f "$candidate" Version)
          case $VERSION in
            '') ;;
            *'~') case ${v#*:} in "${VERSION%\~}"*) ;; *) continue ;; esac ;;
            *) [ "$v" = "$VERSION" ] || [ "${v#*:}" = "$VERSION" ] || [ "${v%-*}" = "$VERSION" ] || continue ;;
          esac
          if [ -z "$best" ] || dpkg --compare-versions "$v" gt "$best"; then best=$v file=$candidate; fi
        done
        [ -n "$file" ] || fail "$E_NOT_FOUND" "the apt cache holds no $NAME $VERSION: was it fetched?"
      fi
      control=$(dpkg-deb -f "$file" Package Version) || fail "$E_INPUT" "not a Debian package: $file"
      while IFS=': ' read -r key value; do
        case $key in Package) package=$value ;; Version) package_version=$value ;; esac
      done <<<"$control"
      depends=()
      if [ -n "$fetched" ]; then
        while read -r name; do [ "$name" = "$package" ] || depends+=("$name"); done <"$state/fetched-depends"
      fi
      take_deb "$file" ${depends[@]+"${depends[@]}"}
      ;;
    folder | tarball | rpm)
      if [ -s "$state/fetched-depends" ]; then
        mapfile -t depends <"$state/fetched-depends"
        install_debs "${depends[@]}"
      fi
      if [ "$KIND" = rpm ]; then
        package=$NAME package_version=$VERSION
        unpack_package "$SRC"
        find_sources
      else take_tree "$SRC"; fi
      ;;
  esac
  case $KIND in
    repo | deb | rpm)
      if [ ${#sources[@]} -eq 0 ]; then
        # An old style package that carries a dkms tarball.
        for archive in /usr/share/"$package"/*.dkms.tar.gz /usr/share/"$NAME"/*.dkms.tar.gz; do
          [ -f "$archive" ] && dkms ldtarball --archive="$archive" </dev/null 2>&1
        done
        # Some put their source in its place by a script.
        if [ "$KIND" != rpm ] && [ -z "$fetched" ] && [ "$(added_modules)" = "$before_modules" ] && [ "$(conf_folders)" = "$before_folders" ]; then
          install_debs "$(readlink -f "$file")"
        fi
      fi ;;
  esac

  while read -r folder; do
    [ -n "$folder" ] || continue
    has_line "$before_folders" "$folder" || add_folder "$folder"
  done <<<"$(conf_folders)"
  for folder in ${sources[@]+"${sources[@]}"}; do add_folder "$folder"; done
}

# Which modules are the package's own.
find_targets() {
  targets=() refused=()
  if [ ${#sources[@]} -gt 0 ]; then
    for folder in "${sources[@]}"; do
      read_conf "$folder"
      conf_value name PACKAGE_NAME
      conf_value version PACKAGE_VERSION
      # Without a name or a version it goes by the name of its folder.
      folder=${folder##*/}
      id=${name:-${folder%-*}}/${version:-${folder##*-}}
      [ -n "$name" ] || why_not_added[$id]='dkms.conf sets no PACKAGE_NAME'
      [ -n "$version" ] || why_not_added[$id]='dkms.conf sets no PACKAGE_VERSION'
      if [ -n "$name" ] && [ -n "$version" ] && [ -e "$tree/$id/source" ]; then targets+=("$id")
      else refused+=("$id"); fi
    done
  else
    while read -r id; do
      [ -n "$id" ] || continue
      has_line "$before_modules" "$id" || targets+=("$id")
    done <<<"$(added_modules)"
  fi
  [ ${#targets[@]} -gt 0 ] || [ ${#refused[@]} -gt 0 ] || fail "$E_NO_MODULE" "no DKMS module (dkms.conf under /usr/src) came with ${package:-$SRC}"
}
