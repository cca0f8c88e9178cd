#!/bin/bash
# Builds the pushed or fetched DKMS package for the running kernel, after the guest lost its way out. Run as root,
# after lib/common.sh and the files of build/, which hold nothing but functions.
#
# Variables: KIND, NAME, VERSION, SRC, EXTRA (as for fetch-source.sh; VERSION as it resolved it), RELEASE, JOBS (default 1),
#   EPOCH (seconds, for reproducible builds; default 0), KEEP (not empty: the machine may be logged in to later),
#   COMPILE_ON_HOST (not empty: the host compiles what cc-host.c may hand to it),
#   DEBUG_SYMBOLS (not empty: what dkms strips from the modules is kept beside them)
#
# Result lines, @@dkms2bin KEY VALUE:
#   source-package NAME VERSION       what was installed (repo, deb) or the module itself (folder, tarball)
#   build-seconds NAME/VERSION 12.34 wall time of the `dkms build` command
#   first-error NAME/VERSION LINE     the first error line of make.log
#   left-out NAME/VERSION TEXT        which of its files dkms would not install, because the kernel's own are as new
#   announce NAME VERSION             a module that will have one of the next rows; the package's own before anything is built
#   module NAME VERSION built|skipped|failed|lacks|error REASON…      one per module of the package. lacks: a source of something
#                                     that it needs is not there
#   dependency NAME VERSION built|skipped|failed|lacks|error REASON…  one per module built only because another needs it
#   error TEXT                        why the script ended early
# The running build's make.log is streamed in between; a line of it never starts with @@dkms2bin.
#
# Exit codes (lib/exit-codes.sh): DONE (all built or skipped) BAD NOBODYS INPUT NOT_FOUND NO_MODULE NOT_INSTALLED DISK_FULL
#   OTHER_KERNEL NO_HEADERS
#
# Leaves for collect.py: /var/lib/dkms2bin/result/. With KEEP: /var/lib/dkms2bin/rebuild, /etc/profile.d/dkms2bin.sh.
KIND=${KIND:-} NAME=${NAME:-} VERSION=${VERSION:-} SRC=${SRC:-} RELEASE=${RELEASE:-} JOBS=${JOBS:-1} EPOCH=${EPOCH:-0}
EXTRA=${EXTRA:-} COMPILE_ON_HOST=${COMPILE_ON_HOST:-} KEEP=${KEEP:-} DEBUG_SYMBOLS=${DEBUG_SYMBOLS:-}

check_release
check_source
case $JOBS in '' | *[!0-9]*) fail "$E_INPUT" "JOBS is not a number: '$JOBS'" ;; esac
case $EPOCH in '' | *[!0-9]*) fail "$E_INPUT" "EPOCH is not a number: '$EPOCH'" ;; esac
read -r running </proc/sys/kernel/osrelease
[ "$running" = "$RELEASE" ] || fail "$E_OTHER_KERNEL" "the guest runs $running, not $RELEASE"
[ -e "/lib/modules/$RELEASE/build/Makefile" ] || fail "$E_NO_HEADERS" "no kernel headers: /lib/modules/$RELEASE/build has no Makefile"
arch=$HOSTTYPE
tree=/var/lib/dkms
state=/var/lib/dkms2bin
result=$state/result
[ ! -e "$result" ] || rm -rf "$result"
mkdir -p "$result/modules" "$tree" /etc/dkms || fail "$E_DISK_FULL" "cannot write $result"
: >/etc/dkms/no-autoinstall

export SOURCE_DATE_EPOCH=$EPOCH KBUILD_BUILD_USER=dkms2bin KBUILD_BUILD_HOST=dkms2bin KBUILD_BUILD_VERSION=1
TZ=UTC0 printf -v KBUILD_BUILD_TIMESTAMP '%(%a %b %e %H:%M:%S UTC %Y)T' "$EPOCH"
export KBUILD_BUILD_TIMESTAMP

# What the compiler has answered before, it need not be asked again: see cc-probes.c. A machine that booted cold has none of it.
PATH_OF_TOOLS=$PATH
[ ! -d /usr/local/lib/dkms2bin/cc ] || PATH_OF_TOOLS=/usr/local/lib/dkms2bin/cc:$PATH
[ -z "$COMPILE_ON_HOST" ] || export DKMS2BIN_COMPILE=1

# dkms 2.8 to 3.2 run `strip -g FILE` on each module that STRIP=no does not spare, before they sign and compress it. strip
# itself is replaced: 2.8 sets a PATH of its own, and all of them `unset strip`, which would take an inherited function, too.
if [ -n "$DEBUG_SYMBOLS" ] && [ ! -e /usr/bin/strip.dkms2bin ]; then
  mv /usr/bin/strip /usr/bin/strip.dkms2bin && cat >/usr/bin/strip <<'STRIP' && chmod 755 /usr/bin/strip
#!/bin/bash
# Written by dkms2bin: keeps what dkms strips from a module. One name per path: two may be called the same where they are built.
case $#$1${2-} in
  2-g*.ko) [ -z "${DKMS2BIN_DEBUG:-}" ] || objcopy --only-keep-debug "$2" "$DKMS2BIN_DEBUG/${2//\//@}.debug" || rm -f "$DKMS2BIN_DEBUG/${2//\//@}.debug" ;;
esac
exec strip.dkms2bin "$@"
STRIP
fi

# --- the source -----------------------------------------------------------------------------------------------------------
declare -A confs why_not_added
package='' package_version=''
sources=() # folders of the package's own modules, when known
brought=() # NAME/VERSION of the modules of other sources
# Whether fetch-source.sh ran. Then the package may need what it fetched, and is installed; else only unpacked.
fetched=''
[ ! -e "$state/fetched-depends" ] || fetched=1
[ -z "$EXTRA" ] || bring
before_modules=$(added_modules)
before_folders=$(conf_folders)
take_package
find_targets
say source-package "$package" "$package_version"
printf '%s\n%s\n' "$package" "$package_version" >"$result/source"
for id in ${targets[@]+"${targets[@]}"} ${refused[@]+"${refused[@]}"}; do say announce "${id%/*}" "${id#*/}"; done
for id in ${refused[@]+"${refused[@]}"}; do
  say module "${id%/*}" "${id#*/}" failed "dkms add refused it: ${why_not_added[$id]:-see the log}"
done

# --- build --------------------------------------------------------------------------------------------------------------
declare -A verdict reason on_path
stream=''
stop_stream() { [ -z "$stream" ] || { kill "$stream" 2>/dev/null; wait "$stream" 2>/dev/null; stream=''; }; }
at_exit stop_stream

last_id='' rebuild_id=''
status=$E_DONE
[ ${#refused[@]} -eq 0 ] || status=$E_BAD
printf '%s\n' ${targets[@]+"${targets[@]}"} >"$result/targets"
for id in ${targets[@]+"${targets[@]}"}; do
  on_path=()
  build_one "$id" ''
  case ${verdict[$id]} in
    failed) status=$E_BAD ;;
    lacks | error) [ "$status" -eq "$E_BAD" ] || status=$E_NOBODYS ;;
  esac
done
for id in "${!verdict[@]}"; do
  printf '%s\n%s\n' "${verdict[$id]}" "${reason[$id]}" >"$result/modules/${id%/*}--${id#*/}/verdict"
  case ${verdict[$id]} in failed | lacks | error) rebuild_id=$id ;; esac
done
[ -n "$rebuild_id" ] || rebuild_id=$last_id
if [ -n "$KEEP" ] && [ -n "$rebuild_id" ]; then leave_for_login "$rebuild_id"; fi
exit "$status"
