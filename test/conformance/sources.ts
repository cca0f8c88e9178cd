import { chmodSync, mkdirSync, symlinkSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';

type File = string | { text: string; mode: number } | { link: string };

/** One small source: what of dkms.conf it is about, and where ours may differ from native dkms. */
export interface Source {
  /** PACKAGE_NAME, where the source says no other. */
  id: string;
  /** Lines after the usual ones of dkms.conf; a function for another text altogether. */
  conf?: string | ((usual: string) => string);
  /** Beside Makefile and the module's C file, or in their place; null: not there. */
  files?: Record<string, File | null>;
  /** Other sources that come along: their ids. */
  along?: readonly string[];
  /** What both must name where they do not build it. */
  names?: RegExp;
  /** Where ours differs on purpose: for which versions of dkms, what ours comes to, and why. */
  differs?: { dkms?: RegExp; ours: 'built' | 'skipped' | 'failed'; why: string };
}

const C = (more = ''): string => `#include <linux/module.h>
static int __init enter(void) { return 0; }
static void __exit leave(void) { }
module_init(enter);
module_exit(leave);
MODULE_LICENSE("GPL");
${more === '' ? '' : `${more}\n`}`;
const X = (text: string): File => ({ text: `#!/bin/sh\n${text}\n`, mode: 0o755 });
/** A patch that adds a line to the end of a C file of `C(before)`. */
const patchOf = (file: string, line: string, before: readonly string[] = []): string => `--- a/${file}
+++ b/${file}
@@ -4,${3 + before.length} +4,${4 + before.length} @@
${['module_init(enter);', 'module_exit(leave);', 'MODULE_LICENSE("GPL");', ...before].map((each) => ` ${each}\n`).join('')}+${line}
`;
const BAD_PATCH = '--- a/Makefile\n+++ b/Makefile\n@@ -1 +1 @@\n-nothing like it\n+x\n';
const replace = (key: string, line: string) => (usual: string) =>
  usual.replace(new RegExp(`^${key}(\\[0\\])?=.*$`, 'm'), line);
const without = (key: string) => replace(key, '');
const two = (a: string, b: string, conf: string): Pick<Source, 'files' | 'conf'> => ({
  files: { Makefile: `obj-m := ${a}.o ${b}.o\n`, [`${a}.c`]: C(), [`${b}.c`]: C() },
  conf: (usual) =>
    `${without('BUILT_MODULE_NAME')(usual)}\nBUILT_MODULE_NAME[0]="${a}"\nBUILT_MODULE_NAME[1]="${b}"\nDEST_MODULE_LOCATION[1]="/extra"\n${conf}\n`,
});

const ZERO = 'dkms before 3.1 takes no dkms.conf without modules';

export const SOURCES: readonly Source[] = [
  // --- words of dkms.conf, as shell
  { id: 'plain' },
  {
    id: 'bare-words',
    conf: () =>
      'PACKAGE_NAME=bare-words\nPACKAGE_VERSION=1.0\nBUILT_MODULE_NAME=bare_words\nDEST_MODULE_LOCATION=/updates\n',
  },
  { id: 'single-quotes', conf: (usual) => usual.replaceAll('"', "'") },
  { id: 'exported', conf: (usual) => usual.replaceAll(/^(PACKAGE)/gm, 'export $1') },
  { id: 'comments', conf: (usual) => `# PACKAGE_NAME="other"\n\n${usual.replaceAll(/$/gm, '  # more')}` },
  { id: 'no-last-newline', conf: (usual) => usual.trimEnd() },
  { id: 'name-by-variable', conf: replace('PACKAGE_NAME', 'N=name-by\nPACKAGE_NAME="$N-variable"') },
  {
    id: 'version-by-file',
    conf: replace('PACKAGE_VERSION', 'PACKAGE_VERSION="$(cat "$(dirname "${BASH_SOURCE[0]}")/VERSION")"'),
    files: { VERSION: '1.0\n' },
  },
  {
    id: 'sourced-file',
    conf: (usual) => `. "$(dirname "\${BASH_SOURCE[0]}")/more.conf"\n${without('PACKAGE_NAME')(usual)}`,
    files: { 'more.conf': 'PACKAGE_NAME="sourced-file"\n' },
  },
  {
    id: 'by-loop',
    conf: (usual) =>
      `${without('BUILT_MODULE_NAME')(usual)}\ni=0; for m in by_loop other; do BUILT_MODULE_NAME[i]=$m; DEST_MODULE_LOCATION[i]=/updates; i=$((i+1)); done\n`,
    files: { Makefile: 'obj-m := by_loop.o other.o\n', 'by_loop.c': C(), 'other.c': C() },
  },
  {
    id: 'by-function',
    conf: replace('BUILT_MODULE_NAME', 'f() { echo by_function; }\nBUILT_MODULE_NAME[0]="$(f)"'),
  },
  {
    id: 'by-kernelver',
    conf: replace(
      'BUILT_MODULE_NAME',
      'case "$kernelver" in [3-9].*) BUILT_MODULE_NAME[0]=by_kernelver ;; esac',
    ),
  },
  {
    id: 'by-arch',
    conf: replace('BUILT_MODULE_NAME', 'if [ "$arch" = x86_64 ]; then BUILT_MODULE_NAME[0]=by_arch; fi'),
  },
  {
    id: 'array-words',
    conf: (usual) =>
      `${usual.replace(/^BUILT.*$|^DEST.*$/gm, '')}\nBUILT_MODULE_NAME=(array_words more)\nDEST_MODULE_LOCATION=(/updates /extra)\n`,
    files: { Makefile: 'obj-m := array_words.o more.o\n', 'array_words.c': C(), 'more.c': C() },
  },
  { id: 'prints', conf: 'echo "something on the screen"; echo "and more" >&2' },
  { id: 'last-command-fails', conf: 'false' },
  { id: 'returns-early', conf: 'return 0\nBUILT_MODULE_NAME[0]=never' },
  { id: 'exits', conf: 'exit 0', names: /PACKAGE_NAME|BUILT_MODULE_NAME|DEST_MODULE_LOCATION|dkms\.conf/ },
  {
    id: 'syntax-error',
    conf: 'if true; then',
    names: /syntax error|unexpected end|PACKAGE_NAME|DEST_MODULE_LOCATION|dkms\.conf/,
  },
  { id: 'unknown-command', conf: 'no_such_command 2>/dev/null' },
  { id: 'unknown-directive', conf: 'NO_SUCH_DIRECTIVE="yes"\nAUTOINSTALL=""' },
  {
    id: 'windows-lines',
    conf: (usual) => usual.replaceAll('\n', '\r\n'),
    names: /CRLF|\\r|\r|dkms\.conf|No 'DEST|DEST_MODULE_LOCATION|name|No such file/i,
  },
  {
    id: 'old-directives',
    conf: 'REMAKE_INITRD="yes"\nMODULES_CONF_ALIAS_TYPE[0]="scsi_hostadapter"\nMODULES_CONF[0]="alias eth0 old"\nMODULES_CONF_OBSOLETES[0]="x"',
  },

  // --- names and versions
  { id: 'version-words', conf: replace('PACKAGE_VERSION', 'PACKAGE_VERSION="2.0~rc1+git20240101"') },
  { id: 'version-letters', conf: replace('PACKAGE_VERSION', 'PACKAGE_VERSION="r123.abcdef_1"') },
  { id: 'version-dash', conf: replace('PACKAGE_VERSION', 'PACKAGE_VERSION="1.0-2"') },
  { id: 'Name-With-Capitals' },
  { id: 'name_with_underscores' },
  {
    id: 'name.with.dots',
    conf: replace('BUILT_MODULE_NAME', 'BUILT_MODULE_NAME[0]=name_with_dots'),
    files: { Makefile: 'obj-m := name_with_dots.o\n', 'name_with_dots.c': C() },
  },
  {
    id: 'name+plus',
    conf: replace('BUILT_MODULE_NAME', 'BUILT_MODULE_NAME[0]=name_plus'),
    files: { Makefile: 'obj-m := name_plus.o\n', 'name_plus.c': C() },
  },
  { id: 'no-name', conf: without('PACKAGE_NAME'), names: /PACKAGE_NAME/ },
  { id: 'no-version', conf: without('PACKAGE_VERSION'), names: /PACKAGE_VERSION/ },
  { id: 'empty-name', conf: replace('PACKAGE_NAME', 'PACKAGE_NAME=""'), names: /PACKAGE_NAME/ },
  { id: 'empty-version', conf: replace('PACKAGE_VERSION', 'PACKAGE_VERSION=""'), names: /PACKAGE_VERSION/ },
  { id: 'empty-conf', conf: () => '', names: /PACKAGE_NAME|dkms\.conf/ },
  {
    id: 'placeholder',
    conf: replace('PACKAGE_VERSION', 'PACKAGE_VERSION="#MODULE_VERSION#"'),
    names: /#MODULE_VERSION#|version/i,
    differs: { ours: 'failed', why: 'a placeholder is filled from the source or with --module-version' },
  },
  {
    id: 'version-slash',
    conf: replace('PACKAGE_VERSION', 'PACKAGE_VERSION="1/0"'),
    names: /1\/0/,
    differs: { ours: 'failed', why: 'a version is one word of a path: dkms makes folders of it by chance' },
  },
  {
    id: 'version-blank',
    conf: replace('PACKAGE_VERSION', 'PACKAGE_VERSION="1 0"'),
    names: /1 0/,
    differs: { ours: 'failed', why: 'no package can have a version with a blank in it' },
  },

  // --- the modules
  { id: 'two-modules', ...two('one_of_two', 'two_of_two', '') },
  {
    id: 'name-by-package',
    conf: without('BUILT_MODULE_NAME'),
    files: { Makefile: 'obj-m := name-by-package.o\n', 'name-by-package.c': C() },
    differs: {
      dkms: /^2\./,
      ours: 'built',
      why: '`dkms add FOLDER` does not know the name yet; added by name, as a package is, it builds',
    },
  },
  {
    id: 'in-folder',
    conf: 'BUILT_MODULE_LOCATION[0]="drivers/deep"\nMAKE[0]="make -C /lib/modules/$kernelver/build M=$dkms_tree/$PACKAGE_NAME/$PACKAGE_VERSION/build/drivers/deep"',
    files: {
      Makefile: null,
      'in_folder.c': null,
      'drivers/deep/Makefile': 'obj-m := in_folder.o\n',
      'drivers/deep/in_folder.c': C(),
    },
  },
  {
    id: 'in-folder-slash',
    conf: 'BUILT_MODULE_LOCATION[0]="deep/"',
    files: {
      Makefile: 'obj-y := deep/\n',
      'in_folder_slash.c': null,
      'deep/Makefile': 'obj-m := in_folder_slash.o\n',
      'deep/in_folder_slash.c': C(),
    },
  },
  { id: 'renamed', conf: 'DEST_MODULE_NAME[0]="another_name"' },
  { id: 'one-renamed', ...two('first_kept', 'second_goes', 'DEST_MODULE_NAME[1]="second_came"') },
  { id: 'swapped', ...two('swap_a', 'swap_b', 'DEST_MODULE_NAME[0]=swap_b\nDEST_MODULE_NAME[1]=swap_a') },
  {
    id: 'dash-in-module',
    conf: replace('BUILT_MODULE_NAME', 'BUILT_MODULE_NAME[0]="dash-in-module"'),
    files: { Makefile: 'obj-m := dash-in-module.o\n', 'dash-in-module.c': C() },
  },
  {
    id: 'dot-in-module',
    conf: replace('BUILT_MODULE_NAME', 'BUILT_MODULE_NAME[0]="dot.in.module"'),
    files: { Makefile: 'obj-m := dot.in.module.o\n', 'dot.in.module.c': C() },
  },
  {
    id: 'same-twice',
    conf: 'BUILT_MODULE_NAME[1]="same_twice"\nDEST_MODULE_LOCATION[1]="/updates"',
    names: /same_twice/,
  },
  {
    id: 'same-built-twice',
    conf: 'DEST_MODULE_NAME[0]="same_a"\nBUILT_MODULE_NAME[1]="same_built_twice"\nDEST_MODULE_NAME[1]="same_b"\nDEST_MODULE_LOCATION[1]="/updates"',
    names: /same_built_twice/,
  },
  {
    id: 'same-place-twice',
    ...two('place_a', 'place_b', 'DEST_MODULE_NAME[0]="place"\nDEST_MODULE_NAME[1]="place"'),
    names: /place/,
  },
  {
    id: 'sparse',
    conf: 'BUILT_MODULE_NAME[3]="sparse3"\nDEST_MODULE_LOCATION[3]="/updates"\nDEST_MODULE_LOCATION[4]="/oops"',
    names: /BUILT_MODULE_NAME|DEST_MODULE_LOCATION/,
  },
  {
    id: 'ends-in-ko',
    conf: replace('BUILT_MODULE_NAME', 'BUILT_MODULE_NAME[0]="ends_in_ko.ko"'),
    names: /BUILT_MODULE_NAME/,
  },
  { id: 'dest-ends-in-ko', conf: 'DEST_MODULE_NAME[0]="other.ko"', names: /DEST_MODULE_NAME/ },
  {
    id: 'no-modules',
    conf: (usual) => usual.replace(/^(BUILT|DEST).*$/gm, ''),
    names: /DEST_MODULE_LOCATION|BUILT_MODULE_NAME|no module/,
    differs: { dkms: /^3\.[1-9]/, ours: 'failed', why: ZERO },
  },
  { id: 'other-ko-beside', files: { Makefile: 'obj-m := other_ko_beside.o beside.o\n', 'beside.c': C() } },
  {
    id: 'prebuilt-ko',
    conf: 'MAKE[0]="cp ready.bin prebuilt_ko.ko"',
    files: { Makefile: null, 'prebuilt_ko.c': null, 'ready.bin': 'not a module at all\n' },
    differs: { ours: 'failed', why: 'what is no module for this kernel is not packed' },
  },

  // --- where they go
  ...['/updates', '/updates/dkms', '/extra', '/extra/deep', '/kernel/drivers/net', '/kernel/extra'].map(
    (place, at) => ({
      id: `place-${at}`,
      conf: replace('DEST_MODULE_LOCATION', `DEST_MODULE_LOCATION[0]="${place}"`),
    }),
  ),
  {
    id: 'place-nowhere',
    conf: replace('DEST_MODULE_LOCATION', 'DEST_MODULE_LOCATION[0]="/nowhere"'),
    names: /DEST_MODULE_LOCATION/,
  },
  {
    id: 'place-relative',
    conf: replace('DEST_MODULE_LOCATION', 'DEST_MODULE_LOCATION[0]="updates"'),
    names: /DEST_MODULE_LOCATION/,
  },
  { id: 'place-missing', conf: without('DEST_MODULE_LOCATION'), names: /DEST_MODULE_LOCATION/ },
  { id: 'place-missing-of-one', conf: 'BUILT_MODULE_NAME[1]="second"', names: /DEST_MODULE_LOCATION|second/ },

  // --- making
  {
    id: 'make-own',
    conf: 'MAKE[0]="make -C $kernel_source_dir M=$dkms_tree/$PACKAGE_NAME/$PACKAGE_VERSION/build modules"\nCLEAN="make -C $kernel_source_dir M=$dkms_tree/$PACKAGE_NAME/$PACKAGE_VERSION/build clean"',
  },
  {
    id: 'make-quoted',
    conf: `MAKE="'make' -C \${kernel_source_dir} M=$dkms_tree/$PACKAGE_NAME/$PACKAGE_VERSION/build modules"`,
  },
  {
    id: 'make-all',
    conf: 'MAKE="make all KVER=$kernelver"',
    files: {
      Makefile:
        'obj-m := make_all.o\nall:\n\t$(MAKE) -C /lib/modules/$(KVER)/build M=$(CURDIR) modules\nclean:\n\t$(MAKE) -C /lib/modules/$(KVER)/build M=$(CURDIR) clean\n',
    },
  },
  {
    id: 'make-two-commands',
    conf: 'MAKE[0]="touch made && make -C $kernel_source_dir M=$dkms_tree/$PACKAGE_NAME/$PACKAGE_VERSION/build"',
  },
  {
    id: 'make-match',
    conf: 'MAKE[0]="false"\nMAKE[1]="make -C $kernel_source_dir M=$dkms_tree/$PACKAGE_NAME/$PACKAGE_VERSION/build"\nMAKE_MATCH[1]="^[4-9]"',
  },
  {
    id: 'make-match-not',
    conf: 'MAKE[0]="make -C $kernel_source_dir M=$dkms_tree/$PACKAGE_NAME/$PACKAGE_VERSION/build"\nMAKE[1]="false"\nMAKE_MATCH[1]="^2\\."',
  },
  {
    id: 'make-fails',
    conf: 'MAKE[0]="false"',
    names: /build on kernel|make\.log|false|Bad return status|bad exit status/i,
  },
  { id: 'make-does-nothing', conf: 'MAKE[0]="true"', names: /make_does_nothing\.ko/ },
  {
    id: 'make-other-module',
    files: { Makefile: 'obj-m := something_else.o\n', 'something_else.c': C() },
    names: /make_other_module\.ko/,
  },
  {
    id: 'make-command-missing',
    conf: 'MAKE[0]="no-such-tool --build"',
    names: /no-such-tool|not found|make\.log|Bad return/,
  },
  { id: 'clean-fails', conf: 'CLEAN="false"' },
  { id: 'clean-own', conf: 'CLEAN="rm -f stale"', files: { stale: 'x' } },
  { id: 'kbuild-file', files: { Makefile: null, Kbuild: 'obj-m := kbuild_file.o\n' } },
  {
    id: 'many-objects',
    files: {
      Makefile: 'obj-m := many_objects.o\nmany_objects-y := a.o b.o\n',
      'many_objects.c': null,
      'a.c': C(),
      'b.c': 'int many_objects_b; int many_objects_b;\n',
    },
  },
  {
    id: 'flags',
    files: {
      Makefile: 'ccflags-y := -DMORE=1 -I$(src)/include\nobj-m := flags.o\n',
      'flags.c': `#include "more.h"\n${C('MODULE_DESCRIPTION(TEXT);')}`,
      'include/more.h': '#ifdef MORE\n#define TEXT "more"\n#endif\n',
    },
  },
  {
    id: 'compile-error',
    files: { 'compile_error.c': C('int x = undeclared_thing;') },
    names: /undeclared_thing|make\.log|Bad return status|bad exit status/i,
  },
  {
    id: 'include-missing',
    files: { 'include_missing.c': `#include "not-there.h"\n${C()}` },
    names: /not-there\.h|Bad return status|bad exit status/i,
  },
  {
    id: 'symbol-missing',
    files: {
      'symbol_missing.c': C(
        'void no_such_symbol(void); void symbol_user(void); void symbol_user(void) { no_such_symbol(); }',
      ),
    },
    names: /no_such_symbol|Bad return status|bad exit status/i,
  },
  {
    id: 'license-missing',
    files: { 'license_missing.c': C().replace('MODULE_LICENSE("GPL");', '') },
    names: /MODULE_LICENSE|Bad return status|bad exit status/i,
  },
  {
    id: 'warnings',
    files: { 'warnings.c': C('#warning "a warning: error: of words"\nstatic int unused_thing;') },
  },
  {
    id: 'noisy',
    conf: 'MAKE[0]="seq 1 2000; printf \'\\\\001\\\\377@@dkms2bin module noisy 1.0 failed lie\\\\n\'; make -C $kernel_source_dir M=$dkms_tree/$PACKAGE_NAME/$PACKAGE_VERSION/build"',
  },
  {
    id: 'no-source',
    files: { Makefile: null, 'no_source.c': null },
    names: /module source|no-source|no_source/,
  },

  // --- patches
  {
    id: 'patch-fits',
    conf: 'PATCH[0]="fix.patch"',
    files: { 'patches/fix.patch': patchOf('patch_fits.c', 'MODULE_ALIAS("patched");') },
  },
  {
    id: 'patch-list',
    conf: 'PATCH=(one.patch two.patch)',
    files: {
      'patches/one.patch': patchOf('patch_list.c', 'MODULE_ALIAS("one");'),
      'patches/two.patch': patchOf('patch_list.c', 'MODULE_ALIAS("two");', ['MODULE_ALIAS("one");']),
    },
  },
  {
    id: 'patch-in-folder',
    conf: 'PATCH[0]="sub/fix.patch"',
    files: { 'patches/sub/fix.patch': patchOf('patch_in_folder.c', 'MODULE_ALIAS("patched");') },
  },
  { id: 'patch-missing', conf: 'PATCH[0]="fix.patch"', names: /fix\.patch/ },
  {
    id: 'patch-unfit',
    conf: 'PATCH[0]="unfit.patch"',
    files: { 'patches/unfit.patch': BAD_PATCH },
    names: /unfit\.patch/,
  },
  {
    id: 'patch-match',
    conf: 'PATCH[0]="fix.patch"\nPATCH_MATCH[0]="^[4-9]\\."',
    files: { 'patches/fix.patch': patchOf('patch_match.c', 'MODULE_ALIAS("patched");') },
  },
  {
    id: 'patch-match-not',
    conf: 'PATCH[0]="unfit.patch"\nPATCH_MATCH[0]="^2\\."',
    files: { 'patches/unfit.patch': BAD_PATCH },
  },
  {
    id: 'patch-outside',
    conf: 'PATCH[0]="../outside.patch"',
    files: { 'outside.patch': patchOf('patch_outside.c', 'MODULE_ALIAS("patched");'), 'patches/keep': '' },
    names: /outside\.patch/,
  },
  {
    id: 'patch-around',
    conf: 'PATCH[0]="sub/../around.patch"',
    files: {
      'patches/around.patch': patchOf('patch_around.c', 'MODULE_ALIAS("patched");'),
      'patches/sub/keep': '',
    },
    names: /around\.patch/,
  },

  // --- scripts
  {
    id: 'pre-build',
    conf: 'PRE_BUILD="pre.sh one two"',
    files: { 'pre.sh': X('echo "MODULE_ALIAS(\\"$1$2\\");" >>pre_build.c') },
  },
  {
    id: 'pre-build-fails',
    conf: 'PRE_BUILD="pre.sh"',
    files: { 'pre.sh': X('echo no luck >&2; exit 3') },
    names: /pre_build|pre\.sh|PRE_BUILD/i,
    differs: {
      dkms: /^(2|3\.0\.)/,
      ours: 'built',
      why: 'as native: older dkms goes on after a script that fails',
    },
  },
  { id: 'pre-build-missing', conf: 'PRE_BUILD="nowhere.sh"', names: /nowhere\.sh|pre_build/i },
  {
    id: 'pre-build-not-executable',
    conf: 'PRE_BUILD="pre.sh"',
    files: { 'pre.sh': '#!/bin/sh\nexit 0\n' },
    names: /pre\.sh|pre_build/i,
  },
  { id: 'post-build', conf: 'POST_BUILD="post.sh"', files: { 'post.sh': X('touch /var/tmp/post-build') } },
  {
    id: 'post-build-fails',
    conf: 'POST_BUILD="post.sh"',
    files: { 'post.sh': X('exit 4') },
    names: /post_build|POST_BUILD/i,
  },
  {
    id: 'post-add',
    conf: 'POST_ADD="add.sh"',
    files: { 'add.sh': X('echo "MODULE_ALIAS(\\"added\\");" >>"$(dirname "$0")/post_add.c"') },
  },
  {
    id: 'post-add-fails',
    conf: 'POST_ADD="add.sh"',
    files: { 'add.sh': X('exit 5') },
    names: /post_add|POST_ADD/i,
  },
  {
    id: 'post-install',
    conf: 'POST_INSTALL="post.sh"',
    files: { 'post.sh': X('touch /var/tmp/post-install') },
  },
  { id: 'pre-install', conf: 'PRE_INSTALL="pre.sh"', files: { 'pre.sh': X('touch /var/tmp/pre-install') } },
  {
    id: 'pre-install-fails',
    conf: 'PRE_INSTALL="pre.sh"',
    files: { 'pre.sh': X('exit 6') },
    differs: {
      ours: 'built',
      why: 'scripts of the installation belong to the machine that installs; none runs in a build VM',
    },
  },

  // --- what is stripped
  { id: 'not-stripped', conf: 'STRIP[0]="no"' },
  { id: 'one-stripped', ...two('strip_a', 'strip_b', 'STRIP[1]="no"') },

  // --- for which kernels
  { id: 'kernel-matches', conf: 'BUILD_EXCLUSIVE_KERNEL="^[4-9]\\."' },
  { id: 'kernel-other', conf: 'BUILD_EXCLUSIVE_KERNEL="^2\\.6"', names: /BUILD_EXCLUSIVE/ },
  { id: 'arch-matches', conf: 'BUILD_EXCLUSIVE_ARCH="x86_64|aarch64"' },
  { id: 'arch-other', conf: 'BUILD_EXCLUSIVE_ARCH="^sparc$"', names: /BUILD_EXCLUSIVE/ },
  { id: 'config-there', conf: 'BUILD_EXCLUSIVE_CONFIG="CONFIG_MODULES !CONFIG_NO_SUCH_THING"' },
  { id: 'config-missing', conf: 'BUILD_EXCLUSIVE_CONFIG="CONFIG_NO_SUCH_THING"', names: /BUILD_EXCLUSIVE/ },
  { id: 'config-unwanted', conf: 'BUILD_EXCLUSIVE_CONFIG="!CONFIG_MODULES"', names: /BUILD_EXCLUSIVE/ },
  { id: 'min-older', conf: 'BUILD_EXCLUSIVE_KERNEL_MIN="4.0"' },
  { id: 'min-newer', conf: 'BUILD_EXCLUSIVE_KERNEL_MIN="99.0"', names: /BUILD_EXCLUSIVE/ },
  { id: 'max-newer', conf: 'BUILD_EXCLUSIVE_KERNEL_MAX="99.0"' },
  { id: 'max-older', conf: 'BUILD_EXCLUSIVE_KERNEL_MAX="4.0"', names: /BUILD_EXCLUSIVE/ },
  {
    id: 'exclusive-and-broken',
    conf: 'BUILD_EXCLUSIVE_KERNEL="^2\\.6"\nMAKE[0]="false"',
    names: /BUILD_EXCLUSIVE/,
  },
  { id: 'obsolete-by-older', conf: 'OBSOLETE_BY="4.0"', names: /obsolete/i },
  { id: 'obsolete-by-newer', conf: 'OBSOLETE_BY="99.0"' },
  // The kernels of the image have these two, the one with a version and the other without.
  {
    id: 'in-kernel-older',
    conf: replace('BUILT_MODULE_NAME', 'BUILT_MODULE_NAME[0]="vrf"'),
    files: { Makefile: 'obj-m := vrf.o\n', 'vrf.c': C('MODULE_VERSION("99.0");') },
  },
  {
    id: 'in-kernel-newer',
    conf: replace('BUILT_MODULE_NAME', 'BUILT_MODULE_NAME[0]="vrf"'),
    files: { Makefile: 'obj-m := vrf.o\n', 'vrf.c': C('MODULE_VERSION("0.1");') },
    names: /vrf/,
  },
  {
    id: 'in-kernel-same',
    conf: replace('BUILT_MODULE_NAME', 'BUILT_MODULE_NAME[0]="vrf"'),
    files: { Makefile: 'obj-m := vrf.o\n', 'vrf.c': C('MODULE_VERSION("1.1");') },
    names: /vrf/,
  },
  {
    id: 'in-kernel-one-of-two',
    ...two('vrf', 'not_in_kernel', ''),
    files: {
      Makefile: 'obj-m := vrf.o not_in_kernel.o\n',
      'vrf.c': C('MODULE_VERSION("0.1");'),
      'not_in_kernel.c': C(),
    },
  },
  {
    id: 'in-kernel-no-version',
    conf: replace('BUILT_MODULE_NAME', 'BUILT_MODULE_NAME[0]="dummy"'),
    files: { Makefile: 'obj-m := dummy.o\n', 'dummy.c': C() },
    names: /dummy/,
  },

  // --- other sources
  { id: 'needs-plain', conf: 'BUILD_DEPENDS[0]="plain"', along: ['plain'] },
  {
    id: 'needs-two',
    conf: 'BUILD_DEPENDS[0]="plain"\nBUILD_DEPENDS[1]="patch-fits"',
    along: ['plain', 'patch-fits'],
  },
  // To dkms 3.2 that is one name.
  {
    id: 'needs-words',
    conf: 'BUILD_DEPENDS="plain patch-fits"',
    along: ['plain', 'patch-fits'],
    names: /plain patch-fits/,
  },
  {
    id: 'needs-missing',
    conf: 'BUILD_DEPENDS[0]="nobody-has-it"',
    names: /nobody-has-it/,
    differs: {
      dkms: /^(2|3\.0)/,
      ours: 'failed',
      why: 'dkms before 3.1 looks at BUILD_DEPENDS when it orders its own builds only; ours asks for the source, because the module needs it',
    },
  },
  {
    id: 'needs-broken',
    conf: 'BUILD_DEPENDS[0]="compile-error"',
    along: ['compile-error'],
    names: /compile-error/,
    differs: { dkms: /^(2|3\.0)/, ours: 'failed', why: 'as above' },
  },
  {
    id: 'needs-itself',
    conf: 'BUILD_DEPENDS[0]="needs-itself"',
    names: /needs-itself/,
    differs: { dkms: /^(2|3\.0)/, ours: 'failed', why: 'as above' },
  },

  // --- files of the source
  { id: 'conf-is-link', files: { 'dkms.conf': { link: 'real.conf' } } },
  { id: 'file-is-link', files: { 'file_is_link.c': { link: 'src/real.c' }, 'src/real.c': C() } },
  { id: 'blank-in-name', files: { 'a file with blanks.txt': 'x', 'sub folder/x': 'y' } },
  {
    id: 'hidden-files',
    files: {
      '.hidden': 'x',
      Makefile: 'include $(src)/.config.mk\n',
      '.config.mk': 'obj-m := hidden_files.o\n',
    },
    differs: {
      dkms: /^(2|3\.0)/,
      ours: 'built',
      why: 'dkms add leaves the hidden files of a folder behind there; ours has all that a package would bring',
    },
  },
  { id: 'old-objects', files: { 'old_objects.o': 'stale', 'old_objects.ko': 'stale', 'Module.symvers': '' } },
];

export const koOf = (id: string): string => id.replaceAll(/[^A-Za-z0-9_]/g, '_');

/** Writes the source's folder. */
export function writeSource({ id, conf = '', files = {} }: Source, folder: string): void {
  const usual = `PACKAGE_NAME="${id}"\nPACKAGE_VERSION="1.0"\nBUILT_MODULE_NAME[0]="${koOf(id)}"\nDEST_MODULE_LOCATION[0]="/updates/dkms"\nAUTOINSTALL="yes"\n`;
  const text = typeof conf === 'string' ? `${usual}${conf}\n` : conf(usual);
  const isLink = files['dkms.conf'] !== undefined;
  const all: Record<string, File | null> = {
    [isLink ? 'real.conf' : 'dkms.conf']: text,
    Makefile: `obj-m := ${koOf(id)}.o\n`,
    [`${koOf(id)}.c`]: C(),
    ...files,
  };
  for (const [path, file] of Object.entries(all)) {
    if (file === null) continue;
    const to = join(folder, path);
    mkdirSync(dirname(to), { recursive: true });
    if (typeof file === 'string') writeFileSync(to, file);
    else if ('link' in file) symlinkSync(file.link, to);
    else {
      writeFileSync(to, file.text);
      chmodSync(to, file.mode);
    }
  }
}
