import { execa } from 'execa';
import { readFile, writeFile } from 'node:fs/promises';
import { join, normalize } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parse } from 'yaml';
import { makeKey } from '../unit/fixtures/repository.js';
import { sendFile, serve, type Served } from './official.js';
import { writeSuite } from './ubuntu-archive.js';

const RIG = fileURLToPath(new URL('.', import.meta.url));

/** Overlay of the catalogue, its component, the architecture of its kernels, and the package that a machine with it follows. */
export const FORMS = {
  proxmox: {
    ...{ row: 'proxmox-8', component: 'pve-no-subscription', arch: 'amd64' },
    leads: 'proxmox-default-kernel',
  },
  xanmod: { row: 'xanmod', component: 'main', arch: 'amd64', leads: 'linux-xanmod-x64v3' },
  zabbly: { row: 'zabbly', component: 'main', arch: 'amd64', leads: 'linux-zabbly' },
  rpi: { row: 'raspios-12', component: 'main', arch: 'arm64', leads: 'linux-image-rpi-v8' },
};
export type Form = keyof typeof FORMS;

export interface KernelRepos extends AsyncDisposable {
  /** Kernel release of each form, in its grammar. */
  releases: Record<string, string>;
}

/**
 * Repositories of kernels in these forms, made of Debian's kernels in `folder`, signed and served at `address`. Into the folder
 * `catalogue` go their overlays and key: the catalogue's own, called FORM-rig and on top of the row `on` alone, with our server and key.
 */
export async function serveKernelRepos(
  forms: readonly Form[],
  { folder, address, catalogue, on }: { folder: string; address: string; catalogue: string; on: string },
): Promise<KernelRepos> {
  const { key, publicKey } = await makeKey(folder);
  const releases: Record<string, string> = {};
  for (const form of forms) {
    const { arch, component } = FORMS[form];
    const from = join(folder, arch);
    const kernel = (
      await execa(join(RIG, 'kernel-debs.sh'), [from, 'bookworm-backports', arch])
    ).stdout.trim();
    const archive = join(folder, 'served', form);
    const args = [kernel, join(from, 'debs'), join(archive, 'pool'), form];
    releases[form] = (await execa(join(RIG, 'make-form.sh'), args)).stdout.trim();
    const suite = { name: 'bookworm', arch, components: { [component]: { folders: ['pool'] } } };
    await writeSuite(archive, suite, key!);
  }
  const served = await serve((request, response) => {
    const path = normalize(decodeURIComponent(new URL(request.url ?? '/', 'http://x').pathname));
    sendFile(response, join(folder, 'served', path));
  }, address);
  await writeFile(join(catalogue, 'key.asc'), publicKey);
  const overlays = await overlaysOf(forms, served, { fingerprint: key!.fingerprint, on });
  await writeFile(join(catalogue, 'kernels.yaml'), JSON.stringify({ overlays }));
  return { releases, [Symbol.asyncDispose]: () => served[Symbol.asyncDispose]() };
}

async function overlaysOf(
  forms: readonly Form[],
  served: Served,
  { fingerprint, on }: { fingerprint: string; on: string },
): Promise<object[]> {
  const text = await readFile(join(RIG, '../../images/kernels.yaml'), 'utf8');
  const { overlays } = parse(text, { merge: true }) as { overlays: Record<string, unknown>[] };
  return forms.map((form) => {
    const row = overlays.find(({ id }) => id === FORMS[form].row)!;
    const url = `${served.origin}/${form}`;
    const repositories = (row.repositories as object[]).map((each) => ({ ...each, url }));
    const key = { keyFingerprint: fingerprint, keyFile: 'key.asc' };
    const arches = FORMS[form].arch === 'arm64' ? ['aarch64'] : ['x86_64'];
    return { ...row, id: `${form}-rig`, aliases: [], on: [on], arches, repositories, key };
  });
}
