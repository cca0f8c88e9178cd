# Of build.sh: one module's build by dkms, and what came of it. Sets verdict and reason of its NAME/VERSION.
# What a compiler says of a machine that cannot go on is no error of the source. It decides nothing by itself: whether memory or
# disk ran out, the kernel knows.
MACHINE='Killed|virtual memory exhausted|Cannot allocate memory|out of memory|No space left on device'
compiler_error() { grep -E '(^|[^[:alnum:]_])(fatal )?error: ' "$1" 2>/dev/null | grep -q -v -E "$MACHINE"; } # LOG
# Sets oom_kills to the number of processes that this kernel has ended for want of memory.
count_oom_kills() {
  local key value
  oom_kills=''
  while read -r key value; do
    if [ "$key" = oom_kill ]; then oom_kills=$value; return; fi
  done </proc/vmstat
  # Linux before 4.13 does not count.
  oom_kills=$(dmesg 2>/dev/null | grep -c -E 'Out of memory: Kill|Memory cgroup out of memory: Kill')
}
# Whether a file system that a build writes to has no room: what a failed build removed again is left out by the margin.
disk_full() {
  local blocks size files all
  while read -r blocks size files all; do
    if [ $((blocks * size)) -lt $((32 * 1024 * 1024)) ] || { [ "$all" -gt 0 ] && [ "$files" -lt 100 ]; }; then return 0; fi
  done < <(stat -f -c '%a %S %d %c' "$tree" /tmp 2>/dev/null)
  return 1
}
first_error() { # LOG: compiler, then linker and modpost, then make
  grep -m 1 -E '(^|[^[:alnum:]_])(fatal )?error: ' "$1" 2>/dev/null ||
    grep -m 1 -E '^ERROR:|ERROR: modpost|undefined reference|FATAL: modpost' "$1" 2>/dev/null ||
    grep -m 1 -E '\*\*\*|: Error [0-9]|No such file|not found' "$1" 2>/dev/null
}
# What dkms itself calls the error, on one line: `Error! …` or `dkms.conf: Error! …` with the lines that belong to it, or the script
# of a dkms.conf that failed.
dkms_error() { # FILE
  local line error='' script='' status
  while IFS= read -r line || [ -n "$line" ]; do
    case $line in
      Error!* | 'dkms.conf: Error!'*)
        [ -z "$error" ] || break
        error=$line ;;
      'Running the '*' script'*'(bad exit status: '*)
        script=${line#Running the } status=${line##*: }
        script="the ${script%% *} script of dkms.conf failed with exit status ${status%)}:" ;;
      'Failed command:') ;;
      '' | 'You may override by '*) [ -z "$error" ] || break ;;
      *)
        [ -z "$error" ] || error+=" $line"
        if [ -n "$script" ]; then error="$script $line"; break; fi ;;
    esac
  done <"$1"
  [ -n "$error" ] || return 0
  while case $error in *'  '*) ;; *) false ;; esac; do error=${error//  / }; done
  error=${error/Error! }
  # Where to read on is a path in the guest; the log comes along.
  case $error in *' for more information.'*) error=${error%%, or consult *} error=${error%% Check /*} error=${error%% Consult /*} ;; esac
  printf '%s' "$error"
}
# What `dkms install` leaves alone of the files in made, because the kernel's own module of that name is as new to it; it says so in other
# words in each version, and compares otherwise. Sets made to the others, and left_out to its words. Asked only when there is one.
heed_own_modules() { # ID
  local id=$1 out flat file kept=() own=()
  left_out=''
  for file in "${made[@]}"; do own+=(-e "/$file"); done
  grep -qF "${own[@]}" "/lib/modules/$RELEASE/modules.dep" 2>/dev/null || return 0
  out=$(dkms install -m "${id%/*}" -v "${id#*/}" -k "$RELEASE" --no-depmod </dev/null 2>&1)
  flat=${out//$'\n'/ }
  for file in "${made[@]}"; do
    case $flat in
      *" for $file"[!A-Za-z0-9_-]*' already found in kernel '* | *"/$file"*' already installed '*)
        left_out+=${left_out:+, }$file ;;
      *) kept+=("$file") ;;
    esac
  done
  [ -z "$left_out" ] || left_out="dkms would not replace the kernel's own $left_out: $(grep -h -m 1 -A 1 -E '^(Error! )?Module (version |/)' <<<"$out" | tr '\n' ' ')"
  left_out=${left_out% }
  made=(${kept[@]+"${kept[@]}"})
}
# Whether a build failed by what is no fault of its module; asked only when no compiler found one. Sets ended and out.
not_its_fault() { # CODE OOM-KILLS-BEFORE WHAT-DKMS-SAYS
  local code=$1 why=$3
  count_oom_kills
  ended=error
  if [ "$code" -eq 137 ] || [ "$oom_kills" -gt "$2" ]; then
    out='the guest ran out of memory (a compiler was killed): give it more memory or fewer jobs'
  elif disk_full; then out="the guest's disk is full (No space left on device)"
  elif [ "$code" -ge 129 ]; then out="dkms was ended by signal $((code - 128))"
  elif [ "$code" -eq 21 ] || [ ! -e "/lib/modules/$RELEASE/build/Makefile" ]; then out="no kernel headers for $RELEASE"
  elif [ "$code" -eq 13 ]; then ended=lacks out=${why:-a build dependency is missing}
  else
    case $code in
      12 | 15 | 16 | 126 | 127) out="dkms ended with $code: ${why:-$(tail -n 1 "$state/dkms.out")}" ;;
      *) return 1 ;;
    esac
  fi
}
finish() { # ID built|skipped|failed|lacks|error REASON
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
  local id=$1 path=$2 name=${1%/*} version=${1#*/} conf key dep dep_id log out code start end base why first folder file line made left_out kills ended
  local -A files=()
  [ -z "${verdict[$id]:-}" ] || return 0
  on_path[$id]=1
  [ -z "$path" ] || say announce "$name" "$version"
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
      finish "$id" lacks "BUILD_DEPENDS of its dkms.conf names $dep, which no source of this run brings, and there is no package $dep-dkms in the package sources: add the source of $dep with a --dkms of its own"
      return 0
    fi
    if [ -n "${on_path[$dep_id]:-}" ]; then
      finish "$id" failed "BUILD_DEPENDS of the dkms.conf files form a circle: $path$name -> $dep"
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
        out=${verdict[$dep_id]/error/in error}
        finish "$id" "${verdict[$dep_id]}" "its build dependency $dep_id was ${out/lacks/incomplete}: ${reason[$dep_id]}"
        unset "on_path[$id]"
        return 0 ;;
    esac
  done <<<"$conf"
  unset "on_path[$id]"

  obsolete_by out
  if [ -n "$out" ]; then
    finish "$id" skipped "OBSOLETE_BY=\"$out\" of its dkms.conf: dkms would install nothing for $RELEASE, whose own modules replace it"
    return 0
  fi

  base=$tree/$id/$RELEASE/$arch
  log=$tree/$id/build/make.log
  [ ! -e "$base" ] && [ ! -e "$log" ] || rm -rf "$base" "$tree/$id/build"
  last_id=$id
  echo "dkms build $id for $RELEASE, $JOBS job(s)"
  tail -q -n +1 -F -s 0.5 "$log" 2>/dev/null > >(exec sed -u 's/^@@dkms2bin/ &/') &
  stream=$!
  count_oom_kills
  kills=$oom_kills
  # Not the clock, which a build can set.
  read -r start _ </proc/uptime
  DKMS2BIN_DEBUG=$folder/debug PATH=$PATH_OF_TOOLS dkms build -m "$name" -v "$version" -k "$RELEASE" -j "$JOBS" </dev/null >"$state/dkms.out" 2>&1
  code=$?
  read -r end _ </proc/uptime
  # What it read last is still to be printed. The pipe never has anything to read: a sleep without a process.
  read -r -t 0.1 <> <(:)
  stop_stream
  echo
  while read -r line || [ -n "$line" ]; do printf '%s\n' "${line/#@@dkms2bin/ @@dkms2bin}"; done <"$state/dkms.out"
  # In hundredths; without 10# a leading 0 is octal.
  start=$((10#${end/./} - 10#${start/./}))
  say build-seconds "$id" "$((start / 100)).$(printf '%02d' $((start % 100)))"

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
      esac || {
        case $? in 127) out="the guest has no program that unpacks ${file##*/}" ;; *) out='' ;; esac
        if [ -z "$out" ] && disk_full; then out="the guest's disk is full: no room to unpack ${file##*/}"; fi
        if [ -n "$out" ]; then finish "$id" error "$out"
        else finish "$id" failed "${file##*/}, which its build made, is damaged: it cannot be unpacked"; fi
        return 0
      }
      files[${out##*/}]=$out
      made+=("${out##*/}")
    done
    if [ ${#made[@]} -eq 0 ]; then
      finish "$id" failed 'dkms built no module (BUILT_MODULE_NAME is empty)'
      return 0
    fi
    heed_own_modules "$id"
    if [ ${#made[@]} -eq 0 ]; then
      finish "$id" skipped "$left_out (a newer MODULE_VERSION would)"
      return 0
    fi
    for file in "${made[@]}"; do echo "${files[$file]}" >>"$folder/ko-files"; done
    [ -z "$left_out" ] || say left-out "$id" "$left_out"
    finish "$id" built "${made[*]}"
    return 0
  fi

  why=$(dkms_error "$state/dkms.out")
  # dkms ends with the exit code of a script that failed, whatever that is.
  case $why in 'the '*' script of dkms.conf failed '*) code=1 ;; esac
  if [ "$code" -eq 77 ] || { [ "$code" -eq 9 ] && grep -q BUILD_EXCLUSIVE "$state/dkms.out"; }; then
    out=$(exclusive_reason "$conf")
    finish "$id" skipped "${out:-a BUILD_EXCLUSIVE directive of its dkms.conf does not match this kernel}"
  elif ! compiler_error "$log" && not_its_fault "$code" "$kills" "$why"; then
    finish "$id" "$ended" "$out"
  else
    first=''
    # 10: make failed. Any other end is one that dkms has words for.
    if [ "$code" -eq 10 ] || [ -z "$why" ] || compiler_error "$log"; then first=$(first_error "$log"); fi
    [ "$code" -ne 6 ] || why+=" $(grep -h -m 1 -E 'FAILED|malformed|can.t find file' "$state/dkms.out" "$log" | head -n 1)"
    conf_value out CRLF
    [ -z "$out" ] || grep -qF '%$CR' "$(command -v dkms)" ||
      first="its dkms.conf has Windows line ends (CRLF), which this dkms cannot read: ${first:-$why}"
    [ -z "$first" ] || say first-error "$id" "$first"
    out=$(exclusive_reason "$conf")
    finish "$id" failed "${first:-${why:-dkms build ended with $code}}${out:+ (its dkms.conf says that it does not apply here, which this dkms does not look at: $out)}"
  fi
  return 0
}
