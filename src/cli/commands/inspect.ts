import { Dkms2binError } from '../../model/errors.js';
import { formatBytes } from '../../lib/units.js';
import type { Inspection, InspectedProvenance } from '../../attest/inspect.js';
import { oneLine } from '../../lib/text.js';
import { SCHEMA_VERSION } from '../../report/json.js';
import { table } from '../../report/text.js';
import { command } from '../frame.js';

export const inspect = command({
  name: 'inspect',
  summary: 'show what a package or a kernel module is',
  description:
    'Shows what a .deb or .rpm package, or a .ko, .ko.xz or .ko.zst module, is: module, kernel, files, and whether it is what the provenance beside it (<file>.intoto.jsonl) describes. Exits with 1 when it is not, with 2 when the file is damaged or something else.',
  arguments: [{ name: '<file>', help: 'package or module', completes: 'files' }],
  run: async ({ words: [file = ''], options: { key } }, { engine, cwd, answer }) => {
    const found = await engine.inspect(file, { cwd, key });
    answer(
      () => ({ schemaVersion: SCHEMA_VERSION, ...found }),
      () => inspectionText(found),
    );
    const problem = problemOf(found, key);
    if (problem) throw problem;
  },
});

/** What is wrong with the provenance; fault `module`, which exits with 1. */
function problemOf(found: Inspection, key: string | undefined): Dkms2binError | null {
  const { provenance, file, sha256 } = found;
  const hint =
    'Do not install it unless you know why: get package and provenance again, from where they were made.';
  if (!provenance) {
    if (key === undefined) return null;
    return new Dkms2binError('module', `${file} has no provenance beside it to check with --key`, { hint });
  }
  if (!provenance.matches) {
    const described =
      provenance.expected === null
        ? 'does not speak of this file'
        : `describes sha256 ${provenance.expected}`;
    return new Dkms2binError(
      'module',
      `${file} is not what its provenance describes:\nit has sha256 ${sha256}\n${provenance.file} ${described}`,
      { hint },
    );
  }
  if (provenance.verified === false) {
    return new Dkms2binError('module', `${provenance.file} is not signed by ${key ?? 'the key'}`, { hint });
  }
  return null;
}

function inspectionText(found: Inspection): string {
  const { package: pkg, modules, files, hazards, notCarried, provenance } = found;
  const rows: string[][] = [
    ['File', `${found.file} (${formatBytes(found.bytes)})`],
    ['SHA-256', found.sha256],
  ];
  if (pkg) {
    rows.push(['Package', `${pkg.name} ${pkg.version} ${pkg.architecture}`]);
    if (pkg.description !== null) rows.push(['', pkg.description]);
    if (pkg.depends !== null) rows.push(['Depends', pkg.depends]);
  }
  for (const each of modules) {
    rows.push(
      ['Module', each.version === null ? each.name : `${each.name} ${each.version}`],
      ...(pkg ? [['  file', each.path]] : []),
      ['  kernel', each.kernel],
      ['  vermagic', each.vermagic],
      ['  arch', each.arch],
      ...(each.license === null ? [] : [['  license', each.license]]),
      ...(each.depends.length === 0 ? [] : [['  depends', each.depends.join(' ')]]),
      ['  signed', each.signed ? 'yes' : 'no'],
      ...(each.signature
        ? [['  signer', `${each.signature.signer} (key ${each.signature.keyId}, ${each.signature.hash})`]]
        : []),
    );
    // A bare module that is not compressed is the file itself.
    if (each.sha256 !== found.sha256) rows.push(['  SHA-256', each.sha256]);
  }
  if (pkg) {
    files.forEach(({ path, mode, bytes, type, target }, at) => {
      const what = target !== null ? `${path} -> ${target}` : path;
      rows.push([at === 0 ? 'Files' : '', `${mode} ${type === 'file' ? formatBytes(bytes) : type} ${what}`]);
    });
    if (files.length === 0) rows.push(['Files', 'none']);
    hazards.forEach((hazard, at) => rows.push([at === 0 ? 'Look at' : '', hazard]));
    notCarried.forEach((line, at) => rows.push([at === 0 ? 'Not carried' : '', line]));
  }
  return table([...rows, ...provenanceRows(provenance)]);
}

function provenanceRows(provenance: InspectedProvenance | null): string[][] {
  if (!provenance) return [['Provenance', 'none beside it']];
  const { matches, builder, invocation, finished, keyids, verified } = provenance;
  const byKey = verified ? 'verified' : 'not by the given key';
  const checked = verified === null ? 'not checked, give --key' : byKey;
  return [
    ['Provenance', oneLine(provenance.file)],
    ['  digest', matches ? 'matches' : 'DOES NOT MATCH'],
    ['  builder', builder],
    ...(invocation === null ? [] : [['  run', invocation]]),
    ...(finished === null ? [] : [['  finished', finished]]),
    ...(keyids.length === 0
      ? [['  signature', verified === false ? 'none' : 'none: anybody may have written it']]
      : keyids.map((keyid) => ['  signature', `${keyid} (${checked})`])),
  ];
}
