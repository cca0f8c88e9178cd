/** Packages of Debian and Ubuntu by the command that they bring, where they are not called the same. */
const PACKAGE_OF: Readonly<Record<string, string>> = {
  ...{
    python: 'python-is-python3',
    pkg_config: 'pkgconf',
    'pkg-config': 'pkgconf',
    openssl: 'openssl',
    lex: 'flex',
    yacc: 'bison',
  },
  ...{
    'g++': 'g++',
    'c++': 'g++',
    ld: 'binutils',
    objcopy: 'binutils',
    ar: 'binutils',
    xxd: 'xxd',
    hexdump: 'bsdextrautils',
  },
  ...{
    aclocal: 'automake',
    autoreconf: 'autoconf',
    libtoolize: 'libtool',
    gettext: 'gettext',
    msgfmt: 'gettext',
  },
  ...{
    lsb_release: 'lsb-release',
    killall: 'psmisc',
    ps: 'procps',
    awk: 'gawk',
    cargo: 'cargo',
    rustc: 'rustc',
    bindgen: 'bindgen',
  },
  ...{
    sha256sum: 'coreutils',
    '7z': '7zip',
    depmod: 'kmod',
    modinfo: 'kmod',
    lspci: 'pciutils',
    lsusb: 'usbutils',
  },
};

/** Packages by a header of theirs that programs of a build include. */
const HEADERS: readonly [RegExp, string][] = [
  [/^openssl\//, 'libssl-dev'],
  [/^(?:gelf|libelf|elf)\.h$|^elfutils\//, 'libelf-dev'],
  [/^zlib\.h$/, 'zlib1g-dev'],
  [/^libudev\.h$/, 'libudev-dev'],
  [/^ncurses\.h$|^curses\.h$/, 'libncurses-dev'],
  [/^uuid\/uuid\.h$/, 'uuid-dev'],
];

/** Asked for by many makefiles that do without it. */
const OPTIONAL = new Set([
  'git',
  'hg',
  'svn',
  'lsb_release',
  'systemctl',
  'sudo',
  'modinfo',
  'depmod',
  'dpkg',
  'rpm',
  'tput',
  'ccache',
]);

const COMMAND = '[A-Za-z0-9_][A-Za-z0-9_.+-]{0,63}';
const FORMS: readonly RegExp[] = [
  // dash and bash, also of a script of the source's own
  new RegExp(`^(?:[^\\s:]+: )(?:line )?\\d+: (${COMMAND}): (?:command )?not found\\s*$`, 'gm'),
  new RegExp(`^(?:/[^\\s:]*/)?(?:ba|da)?sh: (?:line \\d+: )?(${COMMAND}): (?:command )?not found\\s*$`, 'gm'),
  new RegExp(
    `^g?make(?:\\[\\d+\\])?: (${COMMAND}): (?:No such file or directory|Command not found)\\s*$`,
    'gm',
  ),
  new RegExp(`^(?:/usr/bin/)?env: [‘'\`"]?(${COMMAND})[’'"]?: No such file or directory\\s*$`, 'gm'),
];

/**
 * What a build that failed did not find in its VM, and how it gets it, in words that go after its reason; null when it lacked
 * nothing that can be told.
 */
export function missingTools(log: string, reason: string): string | null {
  const commands = FORMS.flatMap((form) => [...log.matchAll(form)].map(([, name = '']) => name));
  const wanted = [...new Set(commands)].filter(
    (name) =>
      !OPTIONAL.has(name) ||
      new RegExp(`(?:^|[ :'‘])${name.replaceAll(/[.+]/g, '\\$&')}[’']?: `).test(reason),
  );
  const headers = [...log.matchAll(/fatal error: ([A-Za-z0-9_./-]{1,100}\.h): No such file/g)].flatMap(
    ([, header = '']) => {
      const found = HEADERS.find(([form]) => form.test(header));
      return found ? [{ what: header, from: found[1] }] : [];
    },
  );
  const all = [...wanted.map((what) => ({ what, from: PACKAGE_OF[what] ?? what })), ...headers].slice(0, 4);
  if (all.length === 0) return null;
  const names = [...new Set(all.map(({ what }) => what))].join(', ');
  const options = [...new Set(all.map(({ from }) => `--build-package ${from.toLowerCase()}`))].join(' ');
  return `the build VM has no ${names}: ${options} adds ${all.length === 1 ? 'it' : 'them'}`;
}
