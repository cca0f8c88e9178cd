#!/bin/bash
# Installs the built packages in a guest that never ran the build, under that kernel, and loads the modules. Run as root, `bash -s`.
#
# Variables: DEBS (paths in the guest, separated by spaces), MODULES (names as modprobe takes them, separated by spaces, in
#   loading order), NEEDS (modules of the kernel that they depend on), RELEASE, PACKAGES (may be empty: package names to remove again at the end; default all of DEBS)
#
# Result lines, @@dkms2bin KEY VALUE:
#   installed PACKAGE VERSION
#   modinfo NAME VERSION|- VERMAGIC FILE (VERMAGIC with its spaces as commas)
#   load NAME loaded                         in the kernel, and out again
#   load NAME no-hardware REASON             the module is sound, but refuses a machine without its device
#   load NAME bad REASON                     does not load, or the kernel complains
#   unload NAME busy REASON                  loaded, but does not leave; no fault by itself
#   remove ok | remove bad REASON            after taking the packages away again
#   error TEXT
#
# Exit codes: 0 all loaded or no hardware · 1 a module is bad · 2 bad variables · 7 a package did not install ·
#   8 no space left · 11 removing left something behind · 20 another kernel runs
set -u
export LC_ALL=C DEBIAN_FRONTEND=noninteractive PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
DEBS=${DEBS:-} MODULES=${MODULES:-} RELEASE=${RELEASE:-} PACKAGES=${PACKAGES:-} NEEDS=${NEEDS:-}

# Every process that starts costs 50 to 100 ms under emulation: builtins wherever the common path goes.
say() { local key=$1 text; shift; text=${*//[$'\n\t\r']/ }; printf '@@dkms2bin %s %s\n' "$key" "${text:0:2000}"; }
fail() { local code=$1; shift; say error "$*"; exit "$code"; }

case $RELEASE in '' | *[!A-Za-z0-9.+~_-]*) fail 2 "RELEASE is not a kernel release: '$RELEASE'" ;; esac
running=$(uname -r)
[ "$running" = "$RELEASE" ] || fail 20 "the guest runs $running, not $RELEASE"
work=$(mktemp -d) || fail 8 'no temporary folder'
trap 'umount "$work/kernel" 2>/dev/null; rm -rf --one-file-system "$work"' EXIT

read -r -a debs <<<"$DEBS"
read -r -a modules <<<"$MODULES"
read -r -a packages <<<"$PACKAGES"
[ ${#debs[@]} -gt 0 ] || fail 2 'DEBS is empty'
named=${#packages[@]}
for deb in "${debs[@]}"; do
  package=$(dpkg-deb -f "$deb" Package) || fail 2 "not a Debian package: $deb"
  [ "$named" -gt 0 ] || packages+=("$package")
done

taint() { cat /proc/sys/kernel/tainted 2>/dev/null || echo 0; }
dmesg_lines() { dmesg 2>/dev/null | wc -l; }

# --- make depmod cheap --------------------------------------------------------------------------------------------------
# The package's postinst runs depmod, which reads every module of the kernel: 40 s under emulation. For the time of the
# proof the kernel's own modules are hidden, but for those that ours ask for and those of the same name.
tree=/lib/modules/$RELEASE/kernel
hidden=
hide() {
  local names="${modules[*]} $NEEDS" path
  awk -v names="${names//-/_}" 'BEGIN { n = split(names, list, " "); for (i = 1; i <= n; i++) want[list[i]] }
    { path = $1; sub(/:$/, "", path); name = path; sub(/.*\//, "", name); sub(/\.ko.*/, "", name); gsub(/-/, "_", name) }
    name in want { print path; for (i = 2; i <= NF; i++) print $i }' "/lib/modules/$RELEASE/modules.dep" | sort -u >"$work/needed"
  mkdir "$work/kernel" && mount --bind "$tree" "$work/kernel" && mount -t tmpfs -o mode=755 tmpfs "$tree" || return
  hidden=1
  while read -r path; do
    case $path in kernel/*) mkdir -p "$tree/$(dirname "${path#kernel/}")" && cp "$work/kernel/${path#kernel/}" "$tree/${path#kernel/}" ;; esac
  done <"$work/needed"
}
# A module may ask for others by alias only once it runs: then everything is there again.
show() {
  [ -n "$hidden" ] || return 1
  umount "$tree" && umount "$work/kernel"
  hidden=
  depmod "$RELEASE"
}
[ -d "$tree" ] && hide

# --- install ---------------------------------------------------------------------------------------------------------
dpkg --force-unsafe-io -i "${debs[@]}" </dev/null >"$work/dpkg.log" 2>&1
code=$?
sed '$a\' "$work/dpkg.log"
if [ "$code" -ne 0 ]; then
  grep -q 'No space left on device' "$work/dpkg.log" && fail 8 "the guest's disk is full"
  fail 7 "the package did not install: $(grep -E 'depends on|^dpkg: error|subprocess|conflict' "$work/dpkg.log" | head -n 4 | tr '\n' ' ')"
fi
for package in "${packages[@]}"; do say installed "$package $(dpkg-query -W -f '${Version}' "$package" 2>/dev/null)"; done
dpkg -L "${packages[@]}" 2>/dev/null | grep -E '\.ko(\.(xz|zst|gz))?$' | sort -u >"$work/files"

# --- load ------------------------------------------------------------------------------------------------------------
status=0
bad() { say load "$1 bad $2"; status=1; }
for module in ${modules[@]+"${modules[@]}"}; do
  case $module in -* | *[!A-Za-z0-9_-]*) fail 2 "not a module name: '$module'" ;; esac
  internal=${module//-/_}
  if ! modinfo -k "$RELEASE" "$module" >"$work/modinfo" 2>&1; then bad "$module" "modinfo does not find it: $(head -n 1 "$work/modinfo")"; continue; fi
  field() { sed -n "s/^$1: *//p" "$work/modinfo" | head -n 1; }
  file=$(field filename) version=$(field version) vermagic=$(field vermagic) licence=$(field license)
  say modinfo "$module ${version:--} $(printf '%s' "$vermagic" | sed 's/ *$//; s/ /,/g') $file"
  case $vermagic in "$RELEASE "*) ;; *) bad "$module" "its vermagic is '$vermagic', the kernel is $RELEASE"; continue ;; esac
  if ! grep -qF "${file#/usr}" "$work/files"; then bad "$module" "modprobe would take $file, which is not the package's file"; continue; fi

  if [ -d "/sys/module/$internal" ]; then
    # Already in: udev loaded it at installation, or the kernel has one of the same name built in.
    modprobe -r "$module" 2>/dev/null
    if [ -d "/sys/module/$internal" ]; then bad "$module" 'a module of this name is in the kernel already and does not leave'; continue; fi
  fi
  lines=$(dmesg_lines) taint_before=$(taint)
  modprobe -v "$module" </dev/null >"$work/modprobe" 2>&1
  code=$?
  if [ "$code" -ne 0 ] && show; then
    modprobe -v "$module" </dev/null >"$work/modprobe" 2>&1
    code=$?
  fi
  sed 's/^@@dkms2bin/ &/; $a\' "$work/modprobe"
  dmesg 2>/dev/null | tail -n "+$((lines + 1))" >"$work/dmesg"
  sed 's/^@@dkms2bin/ &/; $a\' "$work/dmesg"
  complaint=$(grep -m 1 -E 'BUG:|kernel BUG at|Oops|general protection fault|WARNING: CPU|WARNING: .* at |Call Trace:|Kernel panic|Internal error|Unable to handle kernel' "$work/dmesg")
  taint_new=$(($(taint) & ~taint_before))
  # Out of tree (12) and unsigned (13) are what such a module is; proprietary (0) only if its licence says so.
  allowed=$(((1 << 12) | (1 << 13)))
  case $licence in GPL | 'GPL v2' | 'GPL and additional rights' | 'Dual BSD/GPL' | 'Dual MIT/GPL' | 'Dual MPL/GPL') ;; *) allowed=$((allowed | 1)) ;; esac
  if [ -n "$complaint" ]; then bad "$module" "the kernel complains: $(sed 's/^\[[^]]*\] *//' <<<"$complaint")"; continue; fi
  if [ $((taint_new & ~allowed)) -ne 0 ]; then bad "$module" "loading taints the kernel: $taint_new (allowed $allowed)"; continue; fi
  if [ "$code" -ne 0 ]; then
    hint=$(grep -m 1 -iE "$internal|$module" "$work/dmesg" | sed 's/^\[[^]]*\] *//')
    if grep -qE 'No such device' "$work/modprobe"; then say load "$module no-hardware ${hint:-No such device}"
    else bad "$module" "$(grep -m 1 -E 'ERROR|FATAL|could not' "$work/modprobe" || echo "modprobe ended with $code")${hint:+ ($hint)}"; fi
    continue
  fi
  if [ ! -d "/sys/module/$internal" ]; then bad "$module" "modprobe succeeded, but there is no /sys/module/$internal"; continue; fi
  say load "$module loaded"
  if ! modprobe -r "$module" >"$work/modprobe" 2>&1; then say unload "$module busy $(head -n 1 "$work/modprobe")"; fi
done

# --- and away again ------------------------------------------------------------------------------------------------------
dpkg --force-unsafe-io -r "${packages[@]}" </dev/null >"$work/dpkg.log" 2>&1
code=$?
sed '$a\' "$work/dpkg.log"
left=$(while read -r file; do if [ -e "$file" ]; then echo "$file"; fi; done <"$work/files" | head -n 1)
if [ "$code" -ne 0 ]; then say remove "bad dpkg -r: $(grep -m 1 -E 'error|subprocess' "$work/dpkg.log")"; [ "$status" -ne 0 ] || status=11
elif [ -n "$left" ]; then say remove "bad $left is still there"; [ "$status" -ne 0 ] || status=11
else
  stale=$(while read -r file; do grep -m 1 -F "${file##*"/$RELEASE/"}:" "/lib/modules/$RELEASE/modules.dep"; done <"$work/files" 2>/dev/null | head -n 1)
  if [ -n "$stale" ]; then say remove "bad modules.dep still names ${stale%%:*}"; [ "$status" -ne 0 ] || status=11
  else say remove ok; fi
fi
exit "$status"
