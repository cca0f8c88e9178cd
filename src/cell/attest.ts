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
import { MAX_MODULE_BYTES, readModule } from '../formats/elf.js';
import {
  makeStatement,
  writeProvenance,
  type BuildFacts,
  type PackageRecord,
  type SourceRecord,
} from '../attest/provenance.js';
import { readDeb, type DebEntry } from '../formats/deb.js';
import { readRpmFile } from '../formats/rpm.js';
import { evrOf } from '../formats/rpm-header.js';
import { writeSbom } from '../attest/sbom.js';
import { EPOCH, type Prepared } from './source.js';
import type { Sourced } from './types.js';

/** Writes provenance and SBOM beside the published packages of one module. */
export async function attest(
  { input, prepared, startedOn }: Pick<Sourced, 'input' | 'prepared' | 'startedOn'>,
  result: CellResult,
  packages: readonly string[],
): Promise<void> {
  const { target, environment, machine, invocation } = input;
  const { layer } = environment;
  const installed = parseInstalled(await readFile(join(layer.entry.dir, 'packages'), 'utf8'), target.arch);
  const form = packageForm(input.lookup.row);
  const [compiler, ...otherCompilers] = installed.filter(({ name }) =>
    (form === 'deb' ? /^gcc-\d+$/ : /^gcc$/).test(name),
  );
  const headers = {
    deb: `linux-headers-${target.release}`,
    kmod: 'kernel-devel',
    kmp: 'kernel-default-devel',
  };
  const records = await Promise.all(packages.map(async (path) => ({ path, record: await recordOf(path) })));
  const facts: BuildFacts = {
    module: { name: result.module, version: result.version ?? '' },
    kernel: target.release,
    distro: target.distro,
    arch: target.arch,
    packages: records.map(({ record }) => record),
    packageType: form === 'deb' ? 'deb' : 'rpm',
    source: sourceOf(input.source, prepared.digest, input.source.kind === 'repo' ? prepared.package : null),
    buildDepends: prepared.with.map((each) => sourceOf(each, each.digest, null)),
    options: invocation.options,
    image: layer.image,
    kernelPackages: layer.kernelPackages,
    installed: installed.map(({ name, version, architecture }) => ({
      name,
      version,
      ...(architecture === undefined ? {} : { arch: architecture }),
    })),
    roles: {
      kernelImage: layer.versions['image-package'] ?? '',
      kernelHeaders: headers[form],
      // With several of them the layer does not tell which one the kernel's makefiles take.
      ...(compiler && otherCompilers.length === 0 ? { compiler: compiler.name } : {}),
      dkms: 'dkms',
    },
    layer: basename(layer.entry.dir),
    epoch: EPOCH,
    builder: { dkms2bin: packageVersion(), qemu: await qemuVersion(target.arch), accelerator: machine.accel },
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
  const statement = makeStatement(facts);
  for (const { path, record } of records) {
    await writeProvenance(path, statement, invocation.signer ?? undefined);
    await writeSbom(path, facts, record);
  }
}

function sourceOf(source: ModuleSource, sha256: string, there: Prepared['package']): SourceRecord {
  return {
    kind: source.kind,
    text: source.text,
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

type Read = Pick<PackageRecord, 'package' | 'version' | 'architecture'> & { files: DebEntry[] };

async function debOf(path: string): Promise<Read> {
  const { control, files } = await readDeb(path);
  const field = (name: string): string => {
    const value = control.get(name);
    if (value === undefined) throw new Error(`${path} was packed without ${name}`);
    return value;
  };
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
