import { createHash, type KeyObject } from 'node:crypto';
import { lstat } from 'node:fs/promises';
import { basename } from 'node:path';
import { Dkms2binError } from '../model/errors.js';
import { readCapped } from '../lib/read-capped.js';
import { compressionOf, decompress } from '../formats/decompress.js';
import { readPublicKey } from './dsse.js';
import { MAX_MODULE_BYTES, readModule } from '../formats/elf.js';
import { hazardsOf, shown } from '../pack/hazards.js';
import { NOT_CARRIED, OVERLAP } from '../pack/module-package.js';
import { packageHooks, scriptLines, type Script } from '../pack/not-carried.js';
import { readSignature, type ModuleSignature } from '../pack/signature.js';
import { provenancePath, readBundle, type ReadStatement } from './provenance.js';
import { AR_MAGIC } from '../formats/ar.js';
import { parseDeb, type Deb } from '../formats/deb.js';
import { PACKAGE_LIMITS, type PackageEntry } from '../formats/package.js';
import { parseRpm } from '../formats/rpm.js';
import { evrOf, relationText, RPM_MAGIC, type RpmHeader } from '../formats/rpm-header.js';

interface InspectedModule {
  /** Absolute path on the target; for a module that is no package's, the file's own name. */
  path: string;
  name: string;
  version: string | null;
  /** Kernel release, the first word of the vermagic. */
  kernel: string;
  vermagic: string;
  /** The kernel's name of the architecture. */
  arch: string;
  license: string | null;
  /** Modules that it needs. */
  depends: string[];
  /** Whether a signature is appended; not whether it is valid. */
  signed: boolean;
  /** Whose it says it is, as modinfo prints it; null when there is none that can be read. */
  signature: ModuleSignature | null;
  /** Of the uncompressed module. */
  sha256: string;
}

export interface InspectedProvenance {
  file: string;
  /** Whether it names the digest of the inspected file (or of the module in it). */
  matches: boolean;
  /** The digest that it gives for this file; null when it does not speak of the file. */
  expected: string | null;
  builder: string;
  buildType: string;
  invocation: string | null;
  finished: string | null;
  /** Ids of the signing keys, unchecked hints; empty when unsigned. */
  keyids: string[];
  /** Whether the given key signed it; null when no key was given. */
  verified: boolean | null;
}

export interface Inspection {
  file: string;
  kind: 'deb' | 'rpm' | 'module';
  bytes: number;
  sha256: string;
  /** Null for a bare module. */
  package: {
    name: string;
    version: string;
    architecture: string;
    depends: string | null;
    maintainer: string | null;
    description: string | null;
  } | null;
  modules: InspectedModule[];
  /** What the package installs, folders left out; empty for a bare module. */
  files: {
    path: string;
    type: 'file' | 'symlink' | 'special';
    mode: string;
    bytes: number;
    target: string | null;
  }[];
  /** What of the files could hurt the machine that installs them, a line each. */
  hazards: string[];
  /** Scripts of the DKMS package that our packages do not have, and what they would do, a line each. */
  notCarried: string[];
  provenance: InspectedProvenance | null;
}

/**
 * What a package or a module is, from its bytes and from the provenance beside it; `key` checks who signed that. Throws fault
 * `usage` for a file that is cut off, damaged or something else, and for provenance that cannot be read.
 */
export async function inspectFile(path: string, key?: KeyObject): Promise<Inspection> {
  const bytes = await readCapped(path, PACKAGE_LIMITS.packed);
  const about = { file: path, bytes: bytes.length, sha256: sha256(bytes) };
  const packed = await packedIn(bytes, path);
  const modules = packed ? await packedModules(packed, path) : [await moduleOf(bytes, basename(path), path)];
  const digests = [about.sha256, ...(packed ? [] : modules.map((each) => each.sha256))];
  return {
    ...about,
    kind: packed?.kind ?? 'module',
    package: packed?.package ?? null,
    modules,
    files: (packed?.files ?? []).map(({ path: at, type, mode, size, target }) => ({
      path: at,
      type,
      mode: mode.toString(8).padStart(4, '0'),
      bytes: size,
      target: target ?? null,
    })),
    hazards: [...hazardsOf(packed?.files ?? []), ...(packed ? saidIn(packed, OVERLAP) : [])],
    notCarried: packed ? notCarriedOf(packed) : [],
    provenance: await provenanceOf(path, digests, key),
  };
}

/** The public key in a PEM file. Throws fault `usage`. */
export async function publicKeyFile(path: string): Promise<KeyObject> {
  return readPublicKey((await readCapped(path, 2 ** 20)).toString('latin1'), path);
}

interface Packed {
  kind: 'deb' | 'rpm';
  package: NonNullable<Inspection['package']>;
  files: PackageEntry[];
  description: string;
  scripts: Script[];
}

/** Of a package of ours the lines of its description that begin so. */
const saidIn = ({ description }: Packed, begin: string): string[] =>
  [...description.matchAll(new RegExp(`^\\s*${begin}(.*)$`, 'gm'))].map(([, line = '']) => shown(line));

/** Of a package of ours what it says of its source; of one with a DKMS source what a package of ours would say. */
function notCarriedOf(packed: Packed): string[] {
  const { files, scripts } = packed;
  const said = saidIn(packed, NOT_CARRIED);
  if (said.length > 0) return said;
  return files.some(({ path }) => path.startsWith('/usr/src/'))
    ? scriptLines([...scripts, ...packageHooks(files)])
    : [];
}

/** Null for what is no package. */
async function packedIn(bytes: Buffer, path: string): Promise<Packed | null> {
  if (bytes.subarray(0, AR_MAGIC.length).equals(AR_MAGIC)) {
    const deb = await parseDeb(bytes, path);
    const description = deb.control.get('Description') ?? '';
    return { kind: 'deb', package: packageOf(deb), files: deb.files, description, scripts: deb.scripts };
  }
  if (bytes.length > 4 && bytes.readUInt32BE(0) === RPM_MAGIC) {
    const { header, files } = await parseRpm(bytes, path);
    const { description, scripts } = header;
    return { kind: 'rpm', package: rpmPackageOf(header), files, description, scripts };
  }
  return null;
}

function rpmPackageOf(header: RpmHeader): NonNullable<Inspection['package']> {
  const { name, arch, relations, packager, summary } = header;
  // What rpm itself must be able to do is no package.
  const requires = relations.requires.map(relationText).filter((each) => !each.startsWith('rpmlib('));
  return {
    name,
    version: evrOf(header),
    architecture: arch,
    depends: requires.length === 0 ? null : [...new Set(requires)].join(', '),
    maintainer: packager === '' ? null : packager,
    description: summary === '' ? null : summary,
  };
}

function packageOf({ control }: Deb): NonNullable<Inspection['package']> {
  const one = (name: string): string | null => control.get(name) ?? null;
  return {
    name: one('Package') ?? '',
    version: one('Version') ?? '',
    architecture: one('Architecture') ?? '',
    depends: [one('Pre-Depends'), one('Depends')].filter((each) => each !== null).join(', ') || null,
    maintainer: one('Maintainer'),
    description: one('Description')?.split('\n')[0] ?? null,
  };
}

async function packedModules(deb: Packed, name: string): Promise<InspectedModule[]> {
  const modules: InspectedModule[] = [];
  for (const file of deb.files) {
    if (file.type !== 'file' || !/\.ko(\.gz|\.xz|\.zst)?$/.test(file.path)) continue;
    modules.push(await moduleOf(file.bytes(), file.path, `${name}: ${file.path}`));
  }
  return modules;
}

/** `where` names the module in errors. */
async function moduleOf(bytes: Buffer, path: string, where: string): Promise<InspectedModule> {
  const compression = compressionOf(bytes);
  const elf = await decompress(bytes, compression, MAX_MODULE_BYTES, where);
  if (elf.subarray(0, 4).toString('latin1') !== '\x7fELF') throw foreign(bytes, where);
  let info;
  try {
    info = readModule(elf);
  } catch (error) {
    // Here it is the file that was given, not a build, that is at fault.
    if (!(error instanceof Dkms2binError)) throw error;
    throw new Dkms2binError('usage', `${where}: ${error.message}`, { cause: error });
  }
  return {
    path,
    name: info.name ?? basename(path).replace(/\.ko(\.\w+)?$/, ''),
    version: info.version ?? null,
    kernel: info.vermagic.split(' ')[0] ?? '',
    vermagic: info.vermagic,
    arch: info.machine,
    license: info.license ?? null,
    depends: info.depends,
    signed: info.signed,
    signature: signatureOf(elf),
    sha256: sha256(elf),
  };
}

function signatureOf(ko: Buffer): ModuleSignature | null {
  try {
    return readSignature(ko);
  } catch (error) {
    if (!(error instanceof Dkms2binError)) throw error;
    return null;
  }
}

function foreign(bytes: Buffer, where: string): Dkms2binError {
  const what = bytes.length === 0 ? 'is empty' : null;
  return new Dkms2binError('usage', `${where} ${what ?? 'is neither a package nor a kernel module'}`, {
    hint: 'inspect reads .deb and .rpm packages and .ko, .ko.gz, .ko.xz and .ko.zst modules.',
  });
}

async function provenanceOf(
  path: string,
  digests: readonly string[],
  key?: KeyObject,
): Promise<InspectedProvenance | null> {
  const file = provenancePath(path);
  if (!(await lstat(file).catch(() => null))) return null;
  const statements = await readBundle(file, key);
  // With a key, what others added to the bundle does not count.
  const trusted = statements.filter((each) => each.verified !== false);
  const candidates = trusted.length > 0 ? trusted : statements;
  const naming = (each: ReadStatement): string | null => expectedDigest(each, basename(path), digests);
  const chosen =
    candidates.find((each) => digests.includes(naming(each) ?? '')) ??
    candidates.find((each) => naming(each) !== null) ??
    candidates[0];
  if (!chosen) return null;
  const expected = naming(chosen);
  return {
    file,
    matches: expected !== null && digests.includes(expected),
    expected,
    builder: chosen.builder,
    buildType: chosen.buildType,
    invocation: chosen.invocationId ?? null,
    finished: chosen.finishedOn ?? null,
    keyids: chosen.keyids,
    verified: chosen.verified,
  };
}

/** The digest of the subject of that name; for a file that was renamed, the one that matches; null when there is neither. */
function expectedDigest({ subject }: ReadStatement, name: string, digests: readonly string[]): string | null {
  const same = subject.find((each) => digests.includes(each.digest.sha256 ?? ''));
  const named = subject.find((each) => each.name === name);
  return (named ?? same)?.digest.sha256 ?? null;
}

function sha256(bytes: Buffer): string {
  return createHash('sha256').update(bytes).digest('hex');
}
