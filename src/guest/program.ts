import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { deflateSync } from 'node:zlib';
import { PACKAGE_ROOT } from '../lib/paths.js';
import { quote } from '../lib/text.js';

const CODES = 'lib/exit-codes.sh';
const SHELL = [CODES, 'lib/common.sh'];

/** The programs that the host runs in a guest: the files of cloud-init/guest that each is put together from, its own last. */
const PARTS = {
  'build.sh': [
    ...SHELL,
    ...['dkms-conf', 'take-source', 'build-module', 'for-login'].map((part) => `build/${part}.sh`),
    'build.sh',
  ],
  'collect.py': ['collect.py'],
  'disguise.sh': ['disguise.sh'],
  'fetch-source.sh': [...SHELL, 'lib/apt.sh', 'fetch-source.sh'],
  'install-kernel-apt.sh': [...SHELL, 'lib/apt.sh', 'lib/compiler.sh', 'install-kernel-apt.sh'],
  'install-kernel-rpm.sh': [...SHELL, 'lib/compiler.sh', 'install-kernel-rpm.sh'],
  'open-ssh.sh': ['open-ssh.sh'],
  'pack-rpm.py': ['pack-rpm.py'],
  'prove.py': [CODES, 'lib/load.py', 'lib/repository.py', 'prove.py'],
  'provision.sh': ['provision.sh'],
  'settle.sh': [...SHELL, 'settle.sh'],
  'upgrade.py': [CODES, 'lib/load.py', 'lib/repository.py', 'upgrade.py'],
  'verify.py': [CODES, 'lib/load.py', 'verify.py'],
} satisfies Record<string, readonly string[]>;

export type ProgramName = keyof typeof PARTS;

const LOADS = { doing: 'often', load: 'often', warn: 'often', stays: 'often' } as const;
const INSTALLS = {
  ...({ near: 'often', note: 'often', 'image-package': 'once', 'image-version': 'once' } as const),
  ...({ 'headers-version': 'once', 'gcc-version': 'once', 'dkms-version': 'once' } as const),
  ...({ 'kernel-compiler': 'once', vmlinuz: 'once', initrd: 'once', 'root-uuid': 'once' } as const),
  ...({ toolchain: 'once', cmdline: 'once' } as const),
};

/** The keys of a program's result lines, and how often each may come; its head comment says what they mean. `error` is everybody's. */
const ROWS: Partial<Record<ProgramName, Readonly<Record<string, 'once' | 'often'>>>> = {
  'build.sh': {
    ...({ 'source-package': 'once', announce: 'often', module: 'often', dependency: 'often' } as const),
    ...({ 'build-seconds': 'often', 'first-error': 'often', 'left-out': 'often' } as const),
  },
  'fetch-source.sh': {
    ...({ near: 'often', depends: 'often', file: 'often' } as const),
    ...({ package: 'once', 'package-version': 'once', 'source-package': 'once' } as const),
  },
  'install-kernel-apt.sh': INSTALLS,
  'install-kernel-rpm.sh': INSTALLS,
  'prove.py': { ...LOADS, installed: 'often' },
  'settle.sh': { note: 'often' },
  'upgrade.py': { ...LOADS, installed: 'often', held: 'often', removed: 'often', made: 'often' },
  'verify.py': LOADS,
};

/** The first of result lines that a program does not print, or not again. */
export function strangeRow<R extends { key: string }>(name: ProgramName, rows: readonly R[]): R | undefined {
  const known: Readonly<Record<string, 'once' | 'often'>> = { error: 'often', ...ROWS[name] };
  return rows.find(({ key }, at) => {
    const how = Object.hasOwn(known, key) ? known[key] : undefined;
    return how === undefined || (how === 'once' && rows.findIndex((each) => each.key === key) < at);
  });
}

type Value = string | number | readonly Value[];
/** Set in front of a program's text. A shell program takes strings and numbers. */
export type Variables = Readonly<Record<string, Value>>;

/** Paths in cloud-init/guest of the files that a program is put together from. */
export const programFiles = (name: ProgramName): readonly string[] => PARTS[name];

/** A program's text with its variables in front. */
export async function programText(name: ProgramName, variables: Variables): Promise<string> {
  const texts = await Promise.all(
    programFiles(name).map((file) => readFile(join(PACKAGE_ROOT, 'cloud-init', 'guest', file), 'utf8')),
  );
  const isPython = name.endsWith('.py');
  // What JSON writes of strings, numbers and lists is Python, too.
  const literal = (value: Value): string => (isPython ? JSON.stringify(value) : quote(String(value)));
  const head = Object.entries(variables).map(([key, value]) => `${key}=${literal(value)}\n`);
  const text = texts.join('');
  // Words for people stay here.
  return head.join('') + (isPython ? bare(text) : text);
}

/** Without docstrings, those of functions included, and comments. */
const bare = (python: string): string =>
  python
    .replaceAll(/^"""[^]*?"""\n/gm, '')
    // A body may be nothing else.
    .replaceAll(/(?<=:\n)( +)"""[^]*?"""\n/g, '$1pass\n')
    .replaceAll(/^ *#.*\n/gm, '');

/**
 * A Python program as a short one that unpacks it: one message of the channel holds it with its variables, a hundred modules' names
 * among them.
 */
export const packedPython = (program: string): string =>
  `import binascii, zlib\nexec(zlib.decompress(binascii.a2b_base64("${deflateSync(program).toString('base64')}")))\n`;
