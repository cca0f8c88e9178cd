import { execa } from 'execa';
import { readdir, readFile, rm, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { readDeb } from '../../src/formats/deb.js';
import type { CellResult } from '../../src/model/cell.js';
import { quote } from '../../src/lib/text.js';
import { corpus } from '../hostile/corpus.js';
import { kernels, ROAD, temporary, tool, type Document, type Ended } from '../vm/tool.js';
import { EXTRA, hostilePackage } from './package.js';

/** What the build of a package tries, as root of its VM. */
interface Attack {
  name: string;
  what: string;
  /** Shell lines. A line HELD or BROKE says what came of it; DONE, that it was done, and the host is looked at. */
  does: string;
  answer: 'held' | 'done';
}
const ATTACKS = corpus<Attack>('guests');
const SECRET = 'dk2b-host-secret';

/** Each in a shell of its own: one that fails or hangs holds up no other. */
const attacks = ATTACKS.map(
  ({ name, does }) =>
    `echo; echo 'attack ${name}: begins'; timeout -k 5 60 bash -c ${quote(does)} 2>&1 | sed 's/^\\(HELD\\|BROKE\\|DONE\\)/attack ${name}: \\1/'`,
).join('\n');

/** What ruins a build that would be fine; nobody else may come to harm by it. */
const RUINS = {
  // Another program of ours collects the result after this has ended.
  liar: `
for each in /var/lib/dkms2bin/result/modules/*/; do
  printf '../../../../escape\\n1.0\\nmodule x\\n' >$each/id
done
echo HELD`,
  // The word of the reports is in the memory of the program that prints them.
  forger: `
python3 - <<'END' >/proc/$BUILD_PID/fd/1
import os, re
pid = os.environ["BUILD_PID"]
found = set()
with open("/proc/%s/maps" % pid) as maps, open("/proc/%s/mem" % pid, "rb", 0) as mem:
    for line in maps:
        start, end = (int(x, 16) for x in line.split()[0].split("-"))
        if "rw" not in line or end - start > 64 << 20: continue
        try:
            mem.seek(start); found.update(re.findall(rb"(?<![0-9a-f])[0-9a-f]{32}(?![0-9a-f])", mem.read(end - start)))
        except (OSError, ValueError): pass
for word in found:
    for row in ("module dk2b-other 9.9 built other.ko", "module ../../escape 1.0 built x.ko"):
        print("@@dkms2bin:%s %s" % (word.decode(), row), flush=True)
END
echo HELD`,
  // More than the host takes of one file. Nobody reads along: that is another attack.
  logger: `
pkill -x tail
head -c 150000000 /dev/zero | tr '\\0' z
echo
echo HELD`,
  // What is sent is opened by name.
  swapper: `
( sleep 0.2; while :; do
  for each in /var/lib/dkms2bin/result/modules/*/ko-files; do [ ! -f $each ] || printf '/dev/zero\\n/etc/shadow\\n' >$each; done
done ) </dev/null >/dev/null 2>&1 &
echo HELD`,
};

let work = '';
let ended: Ended;
let cells: Map<string, CellResult>;
const out = (): string => join(work, 'out');
const common = (): ReturnType<typeof readDeb> =>
  readDeb(join(out(), 'dk2b-hostile-modules-common_1.0-1_all.deb'));
const logOf = (name: string): Promise<string> => readFile(cells.get(name)!.log!, 'latin1');

/** All that the packages of the first cell hold, and what they are made of. */
async function packed(): Promise<{ files: string[]; modes: number[]; times: string }> {
  const main = await readDeb(cells.get('hostile')!.package!);
  const files = [...main.files, ...(await common()).files];
  const listed = await execa('dpkg-deb', ['-c', cells.get('hostile')!.package!]);
  return {
    files: files.map(({ path }) => path.replace(/^.*\/(?=[^/]*\.ko$)/, '')),
    modes: files.map(({ mode }) => mode),
    times: listed.stdout,
  };
}
const onlyItsOwn = async (): Promise<void> => {
  const { files, modes } = await packed();
  expect([files, modes]).toEqual([
    ['dk2b_hostile.ko', EXTRA],
    [0o644, 0o640],
  ]);
};
const onlyWords = (log: string): void => {
  expect(log).toContain('dk2b-forged 9.9 built forged.ko');
  expect([...cells.keys()].sort()).toEqual(['hostile', ...Object.keys(RUINS)].sort());
  expect(ended.stdout).not.toContain('forged.ko');
};
const loads = (name: string): void => {
  expect(cells.get(name)).toMatchObject({ verdict: 'built', reason: null });
};
const keepsSmall = (): void => {
  expect(ended.stdout.length).toBeLessThan(100_000);
  expect(ended.stdout).not.toMatch(/dk2b flood|dk2b-console|yyyyyyyy/);
};

/** What must be seen on the host after an attack that the guest can carry out. */
const JUDGES: Record<string, (log: string) => void | Promise<void>> = {
  // It prints this after the end that it asked for.
  power: () => loads('hostile'),
  ...Object.fromEntries(
    ['report', 'report-cr', 'report-guess', 'report-stdout', 'report-long'].map((name) => [name, onlyWords]),
  ),
  escapes: (log) => {
    expect(log).toContain('drawkcab');
    // The file has what the build has printed; what is shown of it has not.
    for (const text of [ended.stdout, ended.stderr]) expect(text).not.toMatch(/[\u0007\u001b\u009b\u202e]/);
  },
  flood: keepsSmall,
  'no-newline': keepsSmall,
  console: keepsSmall,
  ...Object.fromEntries(
    ['setuid', 'device', 'link-out', 'sparse', 'extras', 'extras-content'].map((name) => [name, onlyItsOwn]),
  ),
  'names-odd': async () => {
    await onlyItsOwn();
    expect((await readdir(out())).filter((name) => !/^dk2b-[\w.-]+$/.test(name))).toEqual([]);
  },
  stay: async () => {
    expect(await readdir(join(work, 'state', 'runs'))).toEqual([]);
    for (const pid of (await readdir('/proc')).filter((name) => /^\d+$/.test(name)))
      expect(await readFile(`/proc/${pid}/cmdline`, 'latin1').catch(() => '')).not.toContain(`${work}/state`);
  },
  relations: async () => {
    const main = await readDeb(cells.get('hostile')!.package!);
    for (const each of [main, await common()])
      for (const value of each.control.values()) expect(value).not.toContain('libc6');
  },
  depends: async () => {
    const main = await readDeb(cells.get('hostile')!.package!);
    expect(main.control.get('Depends')).not.toContain('systemd');
    expect(cells.get('hostile')!.notes).toMatchObject([expect.stringContaining('systemd')]);
  },
  clock: async () => {
    const { times } = await packed();
    const statement = await readFile(`${cells.get('hostile')!.package!}.intoto.jsonl`, 'latin1');
    for (const text of [times, statement, ended.stdout]) expect(text).not.toContain('2044-');
  },
  preload: async () => {
    await onlyItsOwn();
    loads('hostile');
  },
  // Its module does not load where it sees what they left: in the VM that proves, and in those of the other packages.
  traces: () => loads('hostile'),
  layer: () => {
    loads('hostile');
    loads('logger');
  },
};

beforeAll(async () => {
  work = await temporary('hostile');
  const kernel = (await kernels()).newest;
  const sources = [
    await hostilePackage(work, 'hostile', attacks),
    ...(await Promise.all(Object.entries(RUINS).map(([name, lines]) => hostilePackage(work, name, lines)))),
  ];
  ended = await tool(
    [
      ...sources.flatMap((path) => ['--dkms', path]),
      ...[...ROAD, '--kernel', kernel, '--out-dir', out(), '--jobs', '1', '--json', '--verbose'],
    ],
    {
      cwd: work,
      env: {
        ...{ DKMS2BIN_STATE: join(work, 'state'), DKMS2BIN_REPO_PASSPHRASE: SECRET },
        ...{ AWS_SECRET_ACCESS_KEY: SECRET, DKMS2BIN_QUEUE_PASSWORD: SECRET },
      },
    },
  );
  const document = JSON.parse(ended.stdout) as Document;
  cells = new Map(
    document.cells.map((cell) => [cell.module.replace(/^.*dk2b-/, '').replace('.deb', ''), cell]),
  );
});
afterAll(() => rm(work, { recursive: true, force: true }));

describe('the build of a package', () => {
  test('with all attacks in it is a build like any other', () => {
    expect(cells.get('hostile'), ended.stderr.slice(-4000)).toMatchObject({
      ...{ module: 'dk2b-hostile', version: '1.0', verdict: 'built', reason: null },
    });
  });

  test.each(ATTACKS.map((each) => [each.what, each] as const))(
    'gets nothing by: %s',
    async (_, { name, answer }) => {
      const log = await logOf('hostile');
      expect(log).not.toContain(`attack ${name}: BROKE`);
      // Of a log that is cut the middle is not there.
      if (!log.includes(`attack ${name}: begins`)) expect(log).toContain('of this log are left out here');
      else expect(log).toContain(`attack ${name}: ${answer.toUpperCase()}`);
      if (answer === 'done') await JUDGES[name]!(log);
    },
  );

  test('decides nothing of what is packed beside the modules', async () => {
    const { package: path } = cells.get('hostile')!;
    const main = await readDeb(path!);
    expect(main.files.map((file) => file.path.replace(/^.*\//, ''))).toEqual(['dk2b_hostile.ko']);
    expect(main.control.get('Depends')).not.toContain('systemd');
    const { files, control } = await common();
    expect(files.map((file) => [file.path, file.mode, file.bytes().toString()])).toEqual([
      [EXTRA, 0o640, 'options dk2b_hostile x=1\n'],
    ]);
    expect([control.get('Conflicts'), control.get('Replaces')]).toEqual([
      'dk2b-hostile-dkms',
      'dk2b-hostile-dkms',
    ]);
    expect(cells.get('hostile')!.notes).toMatchObject([expect.stringContaining('systemd')]);
  });

  test('leaves what it prints as words: no escape reaches a terminal, no forged report a result', () => {
    expect(ended.stderr).toMatch(/attack escapes/);
    expect(ended.stderr).not.toMatch(/[\u0007\u001b\u009b\u202e]/);
    expect(ended.stdout).not.toMatch(/[\u0007\u001b\u009b\u202e]/);
    expect([...cells.values()].map(({ module }) => module)).not.toContain('dk2b-forged');
  });
});

describe('a build that ruins its own result', () => {
  test.each([
    ['liar', /name|module files/i],
    ['forger', /makes no sense|module files|name/i],
    ['swapper', /.+/],
  ])('%s comes to no package, and says why', (name, why) => {
    const cell = cells.get(name)!;
    expect(cell, ended.stderr.slice(-4000)).toBeDefined();
    expect(['failed', 'error']).toContain(cell.verdict);
    expect(cell.package).toBeNull();
    expect(cell.reason).toMatch(why);
  });

  test('a log beyond the limit is cut with a mark, and the module is built', async () => {
    const cell = cells.get('logger')!;
    expect(cell, ended.stderr.slice(-4000)).toMatchObject({ verdict: 'built' });
    const log = await readFile(cell.log!, 'latin1');
    expect(log).toMatch(/\[dkms2bin: \d+ of the 15\d{7} bytes of this log are left out here/);
    expect((await stat(cell.log!)).size).toBeLessThan(20 * 2 ** 20);
    expect(log).toContain('CC [M]');
  });
});

test('nothing but the files of cells is in the out-dir, and nothing is left', async () => {
  const allowed =
    /^(dk2b-(hostile|logger|liar|forger|swapper)[-_](modules-common_)?1\.0[-_].*\.(deb|log)(\.intoto\.jsonl|\.cdx\.json)?)$/;
  expect((await readdir(out())).filter((name) => !allowed.test(name))).toEqual([]);
  expect(await readdir(join(work, 'state', 'runs'))).toEqual([]);
  expect((await readdir(work)).filter((name) => !/^(out|state|dk2b-\w+\.deb)$/.test(name))).toEqual([]);
});
