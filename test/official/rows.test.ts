import { mkdir, rm, writeFile } from 'node:fs/promises';
import { dirname, join, resolve } from 'node:path';
import { afterAll, afterEach, beforeAll, describe, expect, inject, test } from 'vitest';
import { bootNew, specOf, type Machine } from '../../src/environment/boot.js';
import { fetchOfficial } from '../../src/environment/official-image.js';
import { OFFICIAL_GIB } from '../../src/environment/unpacked-image.js';
import { findRow, loadCatalogue, type CatalogueRow } from '../../src/distro/catalogue.js';
import { hostProxy } from '../../src/distro/mirrors.js';
import { chooseAccelerator } from '../../src/vm/accel.js';
import { FIXTURES, temporary, tool, type Document } from '../tool.js';

// Every official image: download, boot, kernel layer, build, load. What came of it is a table, for docs/distros.md.
const rows = inject('rows');
const { catalogue } = inject('road');
if (catalogue) process.env.DKMS2BIN_CATALOGUE = catalogue;
const table = resolve(process.env.DKMS2BIN_TEST_TABLE ?? 'out/official-images.md');
const HEAD = `| Row | Image | Date | CPU | Boots | Kernel | Layer | Built and loaded | Remark |
|---|---|---|---|---|---|---|---|---|
`;

interface Result {
  row: string;
  image: string;
  boots: string;
  kernel: string;
  layer: string;
  built: string;
  remark: string;
}
const results: Result[] = [];
let accel = '';
let folder = '';
let machine: Machine;
const { signal } = new AbortController();
const emit = (): void => undefined;

beforeAll(async () => {
  folder = await temporary('rows');
  const { name, cpu } = await chooseAccelerator('auto', 'x86_64', { emit, signal });
  machine = { arch: 'x86_64', accel: name, cpu, cpus: 2, memoryMiB: 2048, emit, signal };
  accel = name;
});

/** Whatever a test came to: a run that is stopped leaves what it found. */
afterEach(async () => {
  const day = new Date().toISOString().slice(0, 10);
  const lines = results.map(({ row, image, boots, kernel, layer, built, remark }) =>
    ['', `\`${row}\``, image, day, accel.toUpperCase(), boots, kernel, layer, built, remark, '']
      .join(' | ')
      .trim(),
  );
  await mkdir(dirname(table), { recursive: true });
  await writeFile(table, `${HEAD}${lines.join('\n')}\n`);
});

afterAll(() => rm(folder, { recursive: true, force: true }));

/** What a booted image says of itself; one line each. */
const FACTS = `echo "size $(df -B1 --output=size / | tail -n 1)"
echo "kernels $(ls /lib/modules | wc -l)"
grep -h ' - WARNING' /var/log/cloud-init.log | sed 's/^.*WARNING\\]: /warning /'
journalctl -b -o cat -p warning -u 'cloud-*' -u 'netplan*' -u systemd-networkd 2>/dev/null | sed 's/^/warning /'
journalctl -b -o cat 2>/dev/null | grep -i 'gateway4' | sed 's/^/netplan /' | sort -u
echo done`;

/** Boots an image as it came, by its own loader, with the seed that every image here gets. */
async function boot(row: CatalogueRow): Promise<{ image: string; facts: string }> {
  const proxy = await hostProxy();
  const disk = await fetchOfficial(row, 'x86_64', { emit, signal, ...(proxy && { proxy }) });
  const { firmware, cpuLevel } = row.arch.x86_64;
  const spec = specOf(machine, {
    boot: { kind: 'loader', firmware, cpuLevel },
    control: 'ssh',
    network: 'egress',
    egress: true,
  });
  await using booted = await bootNew(
    { backing: disk, spec, atLeastGiB: OFFICIAL_GIB },
    join(folder, row.id),
    machine,
  );
  return {
    image: `${/([0-9a-f]{12})[^/]*$/.exec(disk)?.[1]}`,
    facts: await booted.guest.text(FACTS, 1_800_000),
  };
}

const seconds = (stderr: string, what: string): string =>
  new RegExp(`\\] ${what}.* done in ([0-9:.]+ ?s?)`).exec(stderr)?.[1] ?? '';

describe.each(rows)('%s', (id) => {
  const result: Result = { row: id, image: '', boots: 'no', kernel: '', layer: '', built: 'no', remark: '' };
  let ended: Awaited<ReturnType<typeof tool>>;

  test('boots by its own loader, and grows', async () => {
    results.push(result);
    const row = findRow(await loadCatalogue(), id);
    try {
      const { image, facts } = await boot(row);
      console.log(facts);
      Object.assign(result, { image, boots: 'yes' });
      expect(facts).toMatch(/done$/m);
      expect(Number(/^size (\d+)$/m.exec(facts)?.[1]) / 1024 ** 3).toBeGreaterThan(OFFICIAL_GIB - 1);
      // gateway4 stays on purpose: the oldest netplan knows nothing else.
      const warnings = facts
        .split('\n')
        .filter((line) => line.startsWith('warning ') && !line.includes('gateway4'));
      expect(warnings).toEqual([]);
    } catch (error) {
      result.remark = firstLine(error);
      throw error;
    }
  });

  test('from the image to a module that loads', async () => {
    const args = [
      '--dkms',
      join(FIXTURES, 'tiny'),
      '--kernel',
      'latest',
      '--distro',
      id,
      '--image',
      'official',
    ];
    const env = { DKMS2BIN_STATE: join(folder, `${id}-state`) };
    const out = ['--out-dir', join(folder, `${id}-out`), '--json', '--verbose', '--debug', '--force'];
    ended = await tool([...args, ...out], { env });
    const { cells } = JSON.parse(ended.stdout || '{"cells":[]}') as Document;
    const [cell] = cells;
    result.kernel = cell?.kernel ?? '';
    result.remark ||= cell?.reason ?? (ended.code === 0 ? '' : firstLine(ended.stderr));
    result.layer = /made in a VM/.test(ended.stderr) ? 'in a VM' : seconds(ended.stderr, 'kernel layer');
    expect(cell, ended.stderr).toMatchObject({ verdict: 'built', reason: null });
    result.built = 'yes';
    expect(ended.code, ended.stderr).toBe(0);

    const inside = await tool(['login', cell!.kept!], { env, input: `${INSIDE}\nexit\n` });
    console.log(inside.stdout);
    expect(inside.stdout).toContain(`running ${cell!.kernel}`);
    expect(Number(/size (\d+)\r?$/m.exec(inside.stdout)?.[1]) / 1024 ** 3).toBeGreaterThan(OFFICIAL_GIB - 1);
    // The shell of newer distros puts a mark of the terminal before each line.
    expect(inside.stdout).toMatch(/upkeep 0\r?$/m);
    expect((await tool(['rm', cell!.kept!], { env })).code).toBe(0);
  });
});

/** In a kept VM: nothing of the distro's upkeep is loaded. */
const INSIDE = `echo "running $(uname -r)"
echo "size $(df -B1 --output=size / | tail -n 1)"
echo "upkeep $(systemctl list-units --state active --plain --no-legend '*.timer' 'unattended-upgrades*' 'dnf-automatic*' | grep -c .)"
systemctl list-units --no-pager --state active --plain --no-legend '*.timer'`;

const firstLine = (what: unknown): string =>
  String(what instanceof Error ? what.message : what)
    .split('\n')
    .find((line) => /\S/.test(line))!
    .replaceAll('|', '/')
    .slice(0, 160);
