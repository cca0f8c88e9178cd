import { execa } from 'execa';
import { createReadStream } from 'node:fs';
import { mkdir, readFile, rm, writeFile } from 'node:fs/promises';
import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { join, normalize } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { inspectFile } from '../../src/pack/inspect.js';
import { FIXTURES, temporary, tool, type Document } from './tool.js';

// Real rpm, rpmbuild, dnf, createrepo_c and dkms in a Debian guest, whose kernel comes from an rpm repository: see test/rig.
const RIG = fileURLToPath(new URL('../rig', import.meta.url));
const tools = ['rpmbuild', 'createrepo_c', 'dpkg-deb', 'apt-get'];
// An image, a layer and a snapshot of its own take minutes: not part of every run.
const missing = process.env.DKMS2BIN_TEST_RIG ? [] : ['DKMS2BIN_TEST_RIG, as npm run test:rig sets it'];
for (const each of tools) {
  if ((await execa(each, ['--version'], { reject: false })).exitCode !== 0) missing.push(each);
}

let folder = '';
let release = '';
let server: Server | undefined;
let env: Record<string, string> = {};

beforeAll(async () => {
  if (missing.length > 0) return;
  folder = await temporary('rpm-rig');
  const kernel = await execa(join(RIG, 'kernel-debs.sh'), [folder, 'bookworm-backports']);
  release = kernel.stdout.trim();
  const repository = join(folder, 'repo');
  await execa(join(RIG, 'make-rpms.sh'), [release, join(folder, 'debs'), repository]);
  server = createServer((request, response) => {
    const path = normalize(decodeURIComponent(new URL(request.url ?? '/', 'http://x').pathname));
    createReadStream(join(repository, path))
      .on('error', () => response.writeHead(404).end())
      .pipe(response);
  });
  await new Promise<void>((resolve) => server!.listen(0, '127.0.0.1', resolve));
  const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  const catalogue = join(folder, 'catalogue');
  await mkdir(catalogue);
  const row = await readFile(join(RIG, 'rig.yaml'), 'utf8');
  await writeFile(join(catalogue, 'rig.yaml'), row.replaceAll('{url}', url));
  env = { DKMS2BIN_STATE: join(folder, 'state'), DKMS2BIN_CATALOGUE: catalogue };
});

afterAll(async () => {
  server?.closeAllConnections();
  server?.close();
  if (folder) await rm(folder, { recursive: true, force: true });
});

/** A DKMS package as .rpm, of the fixture `tiny`. */
async function sourceRpm(): Promise<string> {
  const spec = join(folder, 'tiny.spec');
  const lines = [
    'Name: dk2b-tiny-dkms',
    'Version: 1.0',
    'Release: 3',
    'Summary: x',
    'License: GPL-2.0-only',
    'BuildArch: noarch',
    'Requires: dkms',
    '%description',
    '%install',
    'mkdir -p %{buildroot}/usr/src/dk2b-tiny-1.0 %{buildroot}/etc/modprobe.d',
    `cp '${join(FIXTURES, 'tiny')}'/* %{buildroot}/usr/src/dk2b-tiny-1.0/`,
    'echo "# nothing" >%{buildroot}/etc/modprobe.d/dk2b-tiny.conf',
    '%files',
    '/usr/src/dk2b-tiny-1.0',
    '/etc/modprobe.d/dk2b-tiny.conf',
  ];
  await writeFile(spec, lines.join('\n'));
  await execa('rpmbuild', ['-bb', '--quiet', '--define', `_topdir ${folder}/src`, spec]);
  return join(folder, 'src/RPMS/noarch/dk2b-tiny-dkms-1.0-3.noarch.rpm');
}

test.skipIf(missing.length > 0)(
  `from an .rpm with a DKMS source to a kmod that dnf installs and the kernel loads${missing.length > 0 ? ` (skipped: no ${missing.join(', ')})` : ''}`,
  async () => {
    const out = join(folder, 'out');
    const args = [
      '--dkms',
      await sourceRpm(),
      '--distro',
      'rig',
      '--kernel',
      release,
      '--image',
      'bootstrap',
    ];
    const ended = await tool([...args, '--out-dir', out, '--repo', '--json', '--verbose'], { env });
    expect(ended.code, ended.stderr).toBe(0);
    const [cell] = (JSON.parse(ended.stdout) as Document).cells;
    const name = `kmod-${cell?.module}-${release}`;
    expect(cell).toMatchObject({
      verdict: 'built',
      package: join(out, `${name}-${cell?.version}-1.x86_64.rpm`),
    });
    // What the guest's rpm and dnf said of it.
    expect(ended.stderr).toMatch(/digests OK/);
    expect(ended.stderr).toContain(`kernel-uname-r = ${release}`);
    expect(ended.stderr).toMatch(/Installed:[\s\S]*kmod-/);
    const { package: about, modules, files, provenance } = await inspectFile(cell!.package!);
    expect(about?.depends).toContain(`${cell?.module}-kmod-common`);
    expect(modules.map((each) => each.kernel)).toEqual([release]);
    expect(files[0]?.path).toMatch(new RegExp(`^/lib/modules/.*/extra/${cell?.module}/.*\\.ko`));
    expect(provenance?.matches).toBe(true);
    // The out-dir is a repository whose metadata the host's dnf resolves.
    const query = ['--repofrompath', `rig,${out}`, '--repo', 'rig', '--setopt', `cachedir=${folder}/dnf`];
    const { stdout } = await execa('dnf', [
      '-q',
      ...query,
      'repoquery',
      '--whatprovides',
      `${cell?.module}-kmod`,
    ]);
    expect(stdout).toContain(name);
  },
);
