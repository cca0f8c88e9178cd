# shellcheck shell=bash
# The compiler that a kernel was built with, for the install-kernel programs.
# shellcheck disable=SC2034

# read_compiler: what the kernel was built with, by the configuration among its headers: `kernel_compiler` in words, `kernel_cc` clang
# or gcc, and `kernel_cc_major`. Empty where that is not told, or where the headers name their compiler themselves, as Debian's do.
kernel_compiler='' kernel_cc='' kernel_cc_major=''
read_compiler() {
  local build=/lib/modules/$RELEASE/build config
  config=$build/.config
  [ -f "$config" ] || config=$build/include/config/auto.conf
  if [ ! -f "$config" ] || [ -f "$build/.kernelvariables" ]; then return 0; fi
  kernel_compiler=$(sed -n 's/^CONFIG_CC_VERSION_TEXT="\(.*\)"$/\1/p' "$config")
  kernel_cc=gcc
  if grep -q '^CONFIG_CC_IS_CLANG=y' "$config"; then kernel_cc=clang; fi
  kernel_cc_major=$(sed -n "s/^CONFIG_${kernel_cc^^}_VERSION=\([0-9]*\)[0-9]\{4\}\$/\1/p" "$config")
}

# want_compiler: has that compiler installed, and tells of it. install_clang MAJOR and install_gcc MAJOR are the package manager's part; both
# leave in `came` what they installed, and install_gcc, which then fails, what there is not.
want_compiler() {
  local own came=''
  read_compiler
  if [ "$kernel_cc" = clang ]; then
    install_clang "$kernel_cc_major"
    say note "The kernel was built with $kernel_compiler: $came were installed, and modules are built with it"
    return 0
  fi
  own=$(gcc -dumpversion 2>/dev/null)
  if [ -z "$kernel_cc_major" ] || [ "$kernel_cc_major" = "${own%%.*}" ]; then kernel_compiler=; return 0; fi
  if install_gcc "$kernel_cc_major"; then
    say note "The kernel was built with $kernel_compiler: $came was installed beside gcc $own, and modules are built with it"
  else
    say note "The kernel was built with $kernel_compiler, and modules are built with the distro's gcc $own: it has no $came"
  fi
}
