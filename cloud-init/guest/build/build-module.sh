# Of build.sh: one module's build by dkms, and what came of it. Sets verdict and reason of its NAME/VERSION.
first_error() { # LOG: compiler, then linker and modpost, then make
  grep -m 1 -E '(^|[^[:alnum:]_])(fatal )?error: ' "$1" 2>/dev/null ||
    grep -m 1 -E '^ERROR:|ERROR: modpost|undefined reference|FATAL: modpost' "$1" 2>/dev/null ||
    grep -m 1 -E '\*\*\*|: Error [0-9]|No such file|not found' "$1" 2>/dev/null
}
finish() { # ID VERDICT REASON
  verdict[$1]=$2 reason[$1]=$3
  local kind=dependency
  case " ${targets[*]} " in *" $1 "*) kind=module ;; esac
  say "$kind" "${1%/*}" "${1#*/}" "$2" "$3"
}
find_dependency() { # NAME → NAME/VERSION: what the request brought, else the newest
  local id
  for id in ${brought[@]+"${brought[@]}"}; do
    [ "${id%/*}" != "$1" ] || { echo "$id"; return; }
  done
  added_modules | grep -F "$1/" | awk -F/ -v n="$1" '$1 == n' | sort -V | tail -n 1
}

build_one() { # ID PATH-SO-FAR
  local id=$1 path=$2 name=${1%/*} version=${1#*/} conf key dep dep_id log out code start end base why first folder file line made
  [ -z "${verdict[$id]:-}" ] || return 0
  on_path[$id]=1
  read_conf "$tree/$id/source"
  folder=$result/modules/$name--$version
  mkdir -p "$folder/ko" "$folder/debug"
  printf '%s\n%s\n' "$name" "$version" >"$folder/id"
  : >"$folder/depends"
  while read -r key dep; do
    [ "$key" = BUILD_DEPENDS ] || continue
    echo "$dep" >>"$folder/depends"
    dep_id=$(find_dependency "$dep")
    if [ -z "$dep_id" ]; then
      finish "$id" error "its build dependency $dep (BUILD_DEPENDS) is missing: no other source brings it, and there is no package $dep-dkms in the package sources"
      return 0
    fi
    if [ -n "${on_path[$dep_id]:-}" ]; then
      finish "$id" error "its build dependencies form a cycle: $path$name -> $dep"
      return 0
    fi
    build_one "$dep_id" "$path$name -> "
    case ${verdict[$dep_id]} in
      built)
        # depmod takes 40 s of emulation, and no build asks modprobe.
        if ! out=$(dkms install -m "$dep" -v "${dep_id#*/}" -k "$RELEASE" --no-depmod --force </dev/null 2>&1); then
          finish "$id" error "its build dependency $dep_id did not install: $(grep -m 1 -i error <<<"$out")"
          return 0
        fi ;;
      *)
        finish "$id" "${verdict[$dep_id]}" "its build dependency $dep_id was ${verdict[$dep_id]/error/in error}: ${reason[$dep_id]}"
        unset "on_path[$id]"
        return 0 ;;
    esac
  done <<<"$conf"
  unset "on_path[$id]"

  base=$tree/$id/$RELEASE/$arch
  log=$tree/$id/build/make.log
  [ ! -e "$base" ] && [ ! -e "$log" ] || rm -rf "$base" "$tree/$id/build"
  last_id=$id
  echo "dkms build $id for $RELEASE, $JOBS job(s)"
  tail -q -n +1 -F -s 0.5 "$log" 2>/dev/null > >(exec sed -u 's/^@@dkms2bin/ &/') &
  stream=$!
  start=$EPOCHREALTIME
  DKMS2BIN_DEBUG=$folder/debug PATH=$PATH_OF_TOOLS dkms build -m "$name" -v "$version" -k "$RELEASE" -j "$JOBS" </dev/null >"$state/dkms.out" 2>&1
  code=$?
  end=$EPOCHREALTIME
  # What it read last is still to be printed. The pipe never has anything to read: a sleep without a process.
  read -r -t 0.1 <> <(:)
  stop_stream
  echo
  while read -r line || [ -n "$line" ]; do printf '%s\n' "${line/#@@dkms2bin/ @@dkms2bin}"; done <"$state/dkms.out"
  start=$((${end/./} - ${start/./}))
  say build-seconds "$id" "$((start / 1000000)).$(printf '%06d' $((start % 1000000)))"

  for file in "$base/log/make.log" "$log" "$tree/$id/$RELEASE"/*/log/make.log "$state/dkms.out"; do
    if [ -f "$file" ]; then log=$file; break; fi
  done
  # dkms.out is the next module's, too.
  if [ "$log" = "$state/dkms.out" ]; then cp "$log" "$folder/dkms.out" && log=$folder/dkms.out; fi
  echo "$log" >"$folder/log"

  if [ "$code" -eq 0 ]; then
    made=()
    for file in "$tree/$id/$RELEASE"/*/module/*.ko*; do
      [ -f "$file" ] || continue
      out=$folder/ko/${file##*/}
      case $file in
        *.ko) out=$file ;;
        *.ko.xz) out=${out%.xz} && xz -dc "$file" >"$out" ;;
        *.ko.zst) out=${out%.zst} && zstd -qdc "$file" >"$out" ;;
        *.ko.gz) out=${out%.gz} && gzip -dc "$file" >"$out" ;;
        *) continue ;;
      esac || { finish "$id" error "cannot copy ${file##*/} (disk full, or no decompressor)"; return 0; }
      echo "$out" >>"$folder/ko-files"
      made+=("${out##*/}")
    done
    if [ ${#made[@]} -eq 0 ]; then finish "$id" failed 'dkms built no module (BUILT_MODULE_NAME is empty)'
    else finish "$id" built "${made[*]}"; fi
    return 0
  fi

  why=$(grep -m 1 -iE '^ *error!' -A 2 "$state/dkms.out" | tr '\n' ' ' | sed 's/  */ /g')
  if [ "$code" -eq 77 ] || { [ "$code" -eq 9 ] && grep -q BUILD_EXCLUSIVE "$state/dkms.out"; }; then
    out=$(exclusive_reason "$conf")
    finish "$id" skipped "${out:-a BUILD_EXCLUSIVE directive of its dkms.conf does not match this kernel}"
  elif grep -qE 'No space left on device' "$log" "$state/dkms.out"; then
    finish "$id" error "the guest's disk is full (No space left on device)"
  elif [ "$code" -ge 129 ] || grep -qE '(^|[^[:alpha:]])Killed($| signal|[^[:alpha:]])|virtual memory exhausted|Cannot allocate memory|out of memory allocating' "$log" "$state/dkms.out"; then
    finish "$id" error "the guest ran out of memory (a compiler was killed): give it more memory or fewer jobs"
  elif [ "$code" -eq 21 ] || grep -qi 'kernel headers for kernel .* cannot be found' "$state/dkms.out"; then
    finish "$id" error "no kernel headers for $RELEASE"
  elif [ "$code" -eq 13 ]; then
    finish "$id" error "${why:-a build dependency is missing}"
  elif [ "$code" -eq 12 ] || [ "$code" -eq 15 ] || [ "$code" -eq 16 ] || [ "$code" -eq 126 ] || [ "$code" -eq 127 ]; then
    finish "$id" error "dkms ended with $code: ${why:-$(tail -n 1 "$state/dkms.out")}"
  else
    first=$(first_error "$log")
    [ -z "$first" ] || say first-error "$id" "$first"
    out=$(exclusive_reason "$conf")
    finish "$id" failed "${first:-${why:-dkms build ended with $code}}${out:+ (its dkms.conf says that it does not apply here, which this dkms does not look at: $out)}"
  fi
  return 0
}
