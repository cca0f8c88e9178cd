#!/bin/bash
# Takes what compiles kernel modules out of a layer's file system, without mounting it: compiler, assembler, their libraries,
# headers. Runs in a sandbox.
# usage: compiler-root.sh FOLDER FILESYSTEM RELEASE ARCH    FILESYSTEM: as e2fsprogs takes it
set -eu
export LC_ALL=C PATH=/usr/sbin:/usr/bin:/sbin:/bin
# In KiB: holes are written as zeros, and no file of a compiler or of headers has a gigabyte.
ulimit -Sf 1048576 2>/dev/null || true
to=$1 filesystem=$2 release=$3 arch=$4

names_in() { debugfs -R "ls -p $1" "$filesystem" 2>/dev/null | awk -F/ 'NF > 5 { print $6 }'; }
take() { # FOLDER REGEX: of what the guest's folder has, what the whole regular expression matches
  names_in "$1" | awk -v form="^($2)\$" '$0 ~ form' | while read -r name; do printf 'rdump "%s/%s" "%s%s"\n' "$1" "$name" "$to" "$1"; done
}

libraries=/usr/lib/$arch-linux-gnu
mkdir -p "$to$libraries" "$to/usr/bin" "$to/usr/lib/modules/$release"
{
  take /usr 'src|include|lib64|libexec'
  take /usr/lib 'gcc|linux-kbuild-.*|ld-linux.*'
  take /usr/bin '([a-z0-9_]+-linux-gnu-)?(gcc|as)(-[0-9.]+)?'
  take "$libraries" '(ld-linux.*|lib(c|m|dl|pthread|isl|mpc|mpfr|gmp|z|zstd|bfd|opcodes|ctf|ctf-nobfd|sframe|jansson)(-[0-9a-z.-]+)?\.so.*)'
  take "/usr/lib/modules/$release" 'build|source'
} >"$to/commands"
# It complains that it cannot give files to root, and ends with 0 whatever happened: the caller tries the compiler.
debugfs -f "$to/commands" "$filesystem" >/dev/null 2>&1
rm "$to/commands"
for name in bin lib lib64; do if [ -d "$to/usr/$name" ]; then ln -s "usr/$name" "$to/$name"; fi; done
# The rest of it is no compiler's.
[ ! -d "$to/usr/libexec" ] || find "$to/usr/libexec" -mindepth 1 -maxdepth 1 ! -name gcc -exec rm -rf {} +
# debugfs gives no file a setuid bit. A layer that a VM made may have anything else in these places.
chmod -R u+rwX,go+rX "$to"
if [ "$(find "$to" | wc -l)" -gt 500000 ] || [ "$(du -s --apparent-size -B1M "$to" | cut -f 1)" -gt 4096 ]; then
  echo 'what should be a compiler and headers has more than 4 GiB or 500000 files' >&2
  exit 1
fi
