import { execFileSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, readFileSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { parseDeb } from '../../../src/formats/deb.js';
import { makeDeb } from '../../../src/pack/deb.js';
import { packModules } from '../../../src/pack/module-package.js';
import { carriedRelations } from '../../../src/pack/relations.js';
import { sharedFiles } from '../../../src/pack/shared-files.js';
import { missingForTargets, Targets, type Disk } from '../../rig/target.js';
import { fakeModule } from '../../unit/fixtures/elf.js';
import { packInput } from '../../unit/fixtures/pack-input.js';

// Machines with a real dpkg, apt and dkms, and Debian's acpi-call-dkms, which gets a newer version and a file of settings.
// The walk is 132 steps, two minutes of processor time. Our packages come of that one as a build makes them; the module in them is none that a kernel would load.
let targets: Targets;
let release: string;
/** A machine with the repository of all these packages, and neither of the two. */
let clean: Disk;
const missing = await missingForTargets();

const SETTINGS = '/etc/modprobe.d/acpi-call.conf';

beforeAll(async () => {
  if (missing.length > 0) return;
  targets = await Targets.open(mkdtempSync(join(tmpdir(), 'leaving-')));
  [release] = targets.releases;
  writeFileSync(join(targets.shared, 'acpi_call.ko'), fakeModule(release));
  const repo = join(targets.shared, 'repo');
  mkdirSync(repo);
  const made = await targets.run([], MAKE_DKMS_PACKAGES);
  expect(made.code, made.text).toBe(0);
  for (const version of ['1.2.2-7', '1.2.2-8']) await pack(repo, version);
  const userland = {
    ...{ package: 'acpi-tool', version: '1', architecture: 'all', section: 'misc', priority: 'optional' },
    ...{ maintainer: 'A Person <person@example.org>', depends: ['acpi-call-dkms (>= 1.2)', 'acpi-call'] },
    description: { synopsis: 'needs the module', lines: [] },
  };
  writeFileSync(
    join(repo, 'acpi-tool_1_all.deb'),
    makeDeb({ control: userland, files: [], scripts: {}, mtime: 0 }),
  );
  const index = execFileSync('dpkg-scanpackages', ['--multiversion', '.'], {
    cwd: repo,
    stdio: ['ignore', 'pipe', 'ignore'],
  });
  writeFileSync(join(repo, 'Packages'), index);
  const start = await targets.run([], PREPARE);
  expect(start.code, start.text).toBe(0);
  clean = start.disk;
}, 1_800_000);
afterAll(() => targets?.[Symbol.asyncDispose]());

/** Debian's own package in two versions, with settings that both ours and it bring. */
const MAKE_DKMS_PACKAGES = `set -e
for version in 1.2.2-7 1.2.2-8; do
  rm -rf /tmp/d && dpkg-deb -R /debs/acpi-call-dkms_*.deb /tmp/d
  sed -i "s/^Version:.*/Version: $version/" /tmp/d/DEBIAN/control
  mkdir -p /tmp/d/etc/modprobe.d && echo 'options acpi_call' >/tmp/d${SETTINGS} && echo ${SETTINGS} >/tmp/d/DEBIAN/conffiles
  dpkg-deb --root-owner-group -b /tmp/d /mnt/repo >/dev/null
done`;

// No initramfs, whose making is another test's matter.
const PREPARE = `set -e
rm -f /boot/initrd.img-* /etc/apt/sources.list.d/* /etc/kernel/postinst.d/initramfs-tools
echo 'deb [trusted=yes] file:/mnt/repo ./' >/etc/apt/sources.list
printf 'APT::Sandbox::User "root";\\nAPT::Install-Recommends "false";\\nQuiet "1";\\n' >/etc/apt/apt.conf.d/99test
apt-get update >/dev/null`;

/** Our packages, of the DKMS package of that version. */
async function pack(outDir: string, version: string): Promise<void> {
  const name = `acpi-call-dkms_${version}_all.deb`;
  const { control, files, folders } = await parseDeb(readFileSync(join(outDir, name)), name);
  const { left: _, ...shared } = sharedFiles(files, folders);
  const no = () => false;
  const { relations } = carriedRelations(control, { isOfDistro: no, isOwn: no });
  await packModules(
    packInput(outDir, release, {
      ...{ module: 'acpi-call', version: version.replace('-', '.'), ...shared },
      modules: [{ name: 'acpi_call.ko', bytes: fakeModule(release) }],
      sourcePackage: { name: 'acpi-call-dkms', version, relations, leader: { name: 'acpi-call', version } },
      fileName: `ours_${version}_amd64.deb`,
    }),
  );
}

/** What dpkg, dkms and the disk say, a line each; `broken` where they do not agree. */
const LOOK = `
release=$1
ours=acpi-call-modules-$release
state() { dpkg-query -W -f '\${db:Status-Status} \${Version}' "$1" 2>/dev/null | grep -v '^not-installed' | sed 's/^\\(config-files\\).*/\\1/'; }
d=$(state acpi-call-dkms) c=$(state acpi-call-modules-common) o=$(state "$ours")
files=$(cd "/lib/modules/$release" && find . -name 'acpi_call.ko*' | sort | tr '\\n' ' ')
found=$(modinfo -k "$release" -F filename acpi_call 2>/dev/null || echo nowhere)
built=$(dkms status 2>/dev/null | grep "$release" | tr '\\n' ' ')
echo "@ dkms: $d | common: $c | ours: $o | files: $files"
case "$o" in installed*)
  dpkg --verify "$ours" acpi-call-modules-common | sed 's/^/broken: /'
  [ "$found" = "/lib/modules/$release/updates/dkms/acpi_call.ko" ] || echo "broken: ours is installed, the module is $found"
  dpkg -S "$found" 2>/dev/null | grep -q "^$ours:" || echo "broken: the module is not ours"
  cmp -s "$found" /mnt/acpi_call.ko || echo "broken: the module has other bytes"
  [ -e ${SETTINGS} ] || echo "broken: ours is installed without its settings"
  case "$d" in installed*) echo "broken: both are installed" ;; esac
esac
case "$d" in installed*)
  case "$built" in *installed*) ;; *) echo "broken: dkms says: $built" ;; esac
  [ "$found" != nowhere ] || echo "broken: acpi-call-dkms is installed without its module"
  cmp -s "$found" /mnt/acpi_call.ko && echo "broken: the module of acpi-call-dkms is ours"
  [ -e ${SETTINGS} ] || echo "broken: acpi-call-dkms is installed without its settings"
esac
case "$d $o" in *installed*) ;; *) [ -z "$files" ] || echo "broken: nobody is installed, but there is $files" ;; esac
`;

interface Looked {
  state: string;
  broken: string[];
  disk: Disk;
  text: string;
}

/** Runs a step, and looks at what came of it. */
async function walk(from: Disk, step: string): Promise<Looked> {
  const { text, disk } = await targets.run(from, `(${step}) 2>&1; ${LOOK}`, release);
  const lines = text.split('\n');
  const state = lines.find((line) => line.startsWith('@ ')) ?? text;
  return { state, broken: lines.filter((line) => line.startsWith('broken')), disk, text };
}

const OURS = 'acpi-call-modules-$1 acpi-call-modules-common';
const STEPS: Record<string, string> = {
  'apt-get install acpi-call-dkms, older': 'apt-get install -y --allow-downgrades acpi-call-dkms=1.2.2-7',
  'apt-get install acpi-call-dkms': 'apt-get install -y acpi-call-dkms',
  'apt-get remove acpi-call-dkms': 'apt-get remove -y acpi-call-dkms',
  'apt-get purge acpi-call-dkms': 'apt-get purge -y acpi-call-dkms',
  'apt-get install ours, older':
    'apt-get install -y --allow-downgrades acpi-call-modules-$1=1.2.2.7 acpi-call-modules-common=1.2.2-7',
  'apt-get install ours': 'apt-get install -y acpi-call-modules-$1',
  'apt-get remove ours': `apt-get remove -y ${OURS}`,
  'apt-get purge ours': `apt-get purge -y ${OURS}`,
  'dpkg -i acpi-call-dkms': 'dpkg -i /mnt/repo/acpi-call-dkms_1.2.2-8_all.deb',
  'dpkg -i ours':
    'dpkg -i /mnt/repo/acpi-call-modules-common_1.2.2-8_all.deb; dpkg -i /mnt/repo/ours_1.2.2-8_amd64.deb',
  'dpkg -i ours, without the common package': 'dpkg -i /mnt/repo/ours_1.2.2-8_amd64.deb',
};

test.skipIf(missing.length > 0)(
  'whatever is installed, upgraded, removed and purged, a machine has the module that dpkg says it has',
  async () => {
    const first = await walk(clean, 'true');
    const known = new Map([[first.state, { disk: clean, by: [] as string[] }]]);
    const broken: string[] = [];
    // Grows while it is walked through, until no step leads to a new state.
    for (const [, { disk, by }] of known) {
      for (const [name, script] of Object.entries(STEPS)) {
        const after = await walk(disk, script);
        const way = [...by, name];
        const told = `${way.join(', then ')}: ${after.text.slice(-2000)}`;
        if (after.broken.length > 0) broken.push(told);
        else if (!known.has(after.state)) known.set(after.state, { disk: after.disk, by: way });
      }
    }
    expect(broken).toEqual([]);
    const states = [...known.keys()];
    // Each of the two with the other's settings still there, and each alone.
    expect(states.some((state) => /dkms: installed .*ours: config-files/.test(state))).toBe(true);
    expect(states.some((state) => /dkms: config-files .*ours: installed/.test(state))).toBe(true);
  },
  3_600_000,
);

test.skipIf(missing.length > 0)(
  'one transaction changes from one to the other and back, and what depends on it stays',
  async () => {
    const before = await walk(clean, 'apt-get install -y acpi-tool acpi-call-dkms');
    expect(before.state, before.text).toContain('dkms: installed');
    const after = await walk(before.disk, 'apt-get install -y acpi-call-modules-$1');
    expect(after.broken).toEqual([]);
    expect(after.text).toMatch(/The following packages will be REMOVED:\n {2}acpi-call-dkms\n/);
    expect(after.state).toContain('ours: installed');
    const back = await walk(after.disk, 'apt-get install -y acpi-call-dkms && dpkg-query -W acpi-tool');
    expect(back.broken).toEqual([]);
    expect(back.text).toContain('acpi-tool\t1');
    expect(back.state).toContain('dkms: installed');
  },
);

test.skipIf(missing.length > 0)(
  'a module that came from a folder is told, and nothing of ours is installed',
  async () => {
    const source =
      'cp -r /usr/src/acpi-call-1.2.2 /usr/src/own-1.2.2 && dpkg -P acpi-call-dkms && mv /usr/src/own-1.2.2 /usr/src/acpi-call-1.2.2';
    const own = await targets.run(
      clean,
      `set -e; (apt-get install -y acpi-call-dkms; ${source}; dkms install acpi-call/1.2.2 -k $1) 2>&1`,
      release,
    );
    expect(own.code, own.text).toBe(0);
    const refused = await walk(own.disk, 'apt-get install -y acpi-call-modules-$1');
    expect(refused.text).toContain(
      `dkms has acpi-call/1.2.2 from /usr/src/acpi-call-1.2.2, and would put its own build in the place of this one.`,
    );
    expect(refused.text).toContain('Take it from dkms first: dkms remove acpi-call/1.2.2 --all');
    expect(refused.state).not.toContain('ours: installed');
    const taken = await walk(
      own.disk,
      'dkms remove acpi-call/1.2.2 --all && apt-get install -y acpi-call-modules-$1',
    );
    expect(taken.broken).toEqual([]);
    expect(taken.state).toContain('ours: installed');

    const stray = await targets.run(
      clean,
      'mkdir -p /lib/modules/$1/updates/dkms && echo x >/lib/modules/$1/updates/dkms/acpi_call.ko.xz',
      release,
    );
    const told = await walk(stray.disk, 'apt-get install -y acpi-call-modules-$1');
    expect(told.text).toContain(
      `/lib/modules/${release}/updates/dkms/acpi_call.ko.xz is there already and belongs to no package.`,
    );
    expect(told.state).not.toContain('ours: installed');
  },
);
