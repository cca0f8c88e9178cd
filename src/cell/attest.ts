import { createHash } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { basename, join } from 'node:path';
import type { Arch, CellResult, ModuleSource } from '../model/cell.js';
import { run } from '../lib/exec.js';
import { packageVersion } from '../lib/paths.js';
import { parseInstalled } from '../distro/dkms-package.js';
import { packageForm } from '../distro/row.js';
import { contentDigest } from '../cache/entries.js';
import { compressionOf, decompress } from '../formats/decompress.js';
import type { Signer } from '../attest/dsse.js';
import { MAX_MODULE_BYTES, readModule } from '../formats/elf.js';
import type { CompileCount } from '../compiler/service.js';
import type { BuildFacts, PackageRecord, SourceRecord } from '../attest/facts.js';
import { hasProvenance, provenancePath, writeProvenance } from '../attest/provenance.js';
import { makeStatement } from '../attest/statement.js';
import { readDeb } from '../formats/deb.js';
import type { PackageEntry } from '../formats/package.js';
import { readRpmFile } from '../formats/rpm.js';
import { evrOf } from '../formats/rpm-header.js';
import { hasSbom, sbomPath, sbomText, writeSbom } from '../attest/sbom.js';
import { EPOCH, type Prepared } from './source.js';
import type { Attestation, Compiled } from './types.js';

type AttestedCell = Pick<Compiled, 'input' | 'prepared' | 'startedOn' | 'built'>;

/** Writes provenance and SBOM beside the published packages, by their paths, of one module. */
export async function attest(
  cell: AttestedCell,
  result: CellResult,
  packages: readonly string[],
): Promise<Attestation> {
  const { input } = cell;
  const signer = input.invocation.signer ?? undefined;
  const facts = await factsOf(cell, result, packages);
  const statement = JSON.stringify(makeStatement(facts));
  const sboms: Attestation['sboms'] = {};
  for (const record of facts.packages) {
    const path = join(input.outDir, record.file);
    const text = sbomText(facts, record);
    sboms[record.file] = text;
    await writeProvenance(path, statement, signer);
    await writeSbom(path, text);
  }
  return { statement, sboms };
}

/** Writes what lacks beside a package, or is not signed by this key; the names of what was written. */
export async function attestAgain(
  path: string,
  sha256: string,
  { statement, sboms }: Attestation,
  signer: Signer | null,
): Promise<string[]> {
  const key = signer ?? undefined;
  const written: string[] = [];
  if (!(await hasProvenance(path, sha256, key))) {
    await writeProvenance(path, statement, key);
    written.push(basename(provenancePath(path)));
  }
  const sbom = sboms[basename(path)];
  if (sbom !== undefined && !(await hasSbom(path, sha256))) {
    await writeSbom(path, sbom);
    written.push(basename(sbomPath(path)));
  }
  return written;
}

const countsOf = ({ host, guest }: CompileCount): { host: number; guest: number } => ({
  host,
  guest: Object.values(guest).reduce((sum, count) => sum + count, 0),
});

async function factsOf(
  { input, prepared, startedOn, built }: AttestedCell,
  result: CellResult,
  packages: readonly string[],
): Promise<BuildFacts> {
  const { source, target, environment, machine, invocation, lookup } = input;
  const { layer } = environment;
  const installed = parseInstalled(await readFile(join(layer.entry.dir, 'packages'), 'utf8'), target.arch);
  const form = packageForm(lookup.row);
  const compilers = installed.filter(({ name }) => (form === 'deb' ? /^gcc-\d+$/ : /^gcc$/).test(name));
  const headers = {
    deb: `linux-headers-${target.release}`,
    kmod: 'kernel-devel',
    kmp: 'kernel-default-devel',
  };
  const [compiler] = compilers;
  return {
    module: { name: result.module, version: result.version ?? '' },
    kernel: target.release,
    distro: target.distro,
    arch: target.arch,
    packages: await Promise.all(packages.map(recordOf)),
    packageType: form === 'deb' ? 'deb' : 'rpm',
    source: sourceOf(source, prepared.digest, source.kind === 'repo' ? prepared.package : null),
    buildDepends: prepared.with.map((each) => sourceOf(each, each.digest, null)),
    options: invocation.options,
    image: layer.image,
    kernelPackages: layer.kernelPackages,
    buildPackages: layer.buildPackages,
    installed: installed.map(({ name, version, architecture }) => ({
      name,
      version,
      ...(architecture === undefined ? {} : { arch: architecture }),
    })),
    roles: {
      kernelImage: layer.versions['image-package'] ?? '',
      kernelHeaders: headers[form],
      // With several of them the layer does not tell which one the kernel's makefiles take.
      ...(compiler && compilers.length === 1 && { compiler: compiler.name }),
      dkms: 'dkms',
    },
    layer: basename(layer.entry.dir),
    epoch: EPOCH,
    builder: {
      ...{ dkms2bin: packageVersion(), qemu: await qemuVersion(target.arch), accelerator: machine.accel },
      ...(built.compilations && { compilations: countsOf(built.compilations) }),
    },
    run: {
      id: invocation.id,
      startedOn,
      finishedOn: new Date(),
      phases: result.phases,
      ...(result.log === null
        ? {}
        : { log: { file: result.log, sha256: await contentDigest(result.log, 'sha256') } }),
    },
  };
}

function sourceOf(source: ModuleSource, sha256: string, there: Prepared['package']): SourceRecord {
  return {
    kind: source.kind,
    text: source.text,
    ...(source.kind !== 'repo' && source.origin && { origin: source.origin }),
    ...(there ? { package: there } : {}),
    digest: { sha256 },
  };
}

async function recordOf(path: string): Promise<PackageRecord> {
  const { files, ...about } = await (path.endsWith('.rpm') ? rpmOf(path) : debOf(path));
  return {
    file: basename(path),
    sha256: await contentDigest(path, 'sha256'),
    ...about,
    files: await Promise.all(
      files
        .filter(({ type }) => type === 'file')
        .map(async (file) => ({
          path: file.path,
          sha256: createHash('sha256').update(file.bytes()).digest('hex'),
          ...(/\.ko(\.(gz|xz|zst))?$/.test(file.path) && { module: await moduleOf(file.path, file.bytes()) }),
        })),
    ),
  };
}

type Read = Pick<PackageRecord, 'package' | 'version' | 'architecture'> & { files: PackageEntry[] };

async function debOf(path: string): Promise<Read> {
  const { control, files } = await readDeb(path);
  const field = (name: string): string => control.get(name) ?? '';
  return {
    package: field('Package'),
    version: field('Version'),
    architecture: field('Architecture'),
    files,
  };
}

async function rpmOf(path: string): Promise<Read> {
  const { header, files } = await readRpmFile(path);
  return { package: header.name, version: evrOf(header), architecture: header.arch, files };
}

async function moduleOf(
  path: string,
  bytes: Buffer,
): Promise<NonNullable<PackageRecord['files'][0]['module']>> {
  const ko = await decompress(bytes, compressionOf(bytes), MAX_MODULE_BYTES, path);
  const { name, version, license } = readModule(ko);
  return {
    ...(name !== undefined && { name }),
    ...(version !== undefined && { version }),
    ...(license !== undefined && { license }),
  };
}

/** Asked for once: it is the same for all cells of an invocation. */
let qemu: Promise<string> | undefined;
function qemuVersion(arch: Arch): Promise<string> {
  qemu ??= run(`qemu-system-${arch}`, ['--version']).then(
    ({ stdout }) => /version ([^\s(]+)/.exec(stdout)?.[1] ?? 'unknown',
  );
  return qemu;
}
