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
  /** Shell lines; a line BROKE says that it got what it wanted. */
  does: string;
}
const ATTACKS = corpus<Attack>('guests');
const SECRET = 'dk2b-host-secret';

/** Each in a shell of its own: one that fails or hangs holds up no other. */
const attacks = ATTACKS.map(
  ({ name, does }) =>
    `echo; echo 'attack ${name}: begins'; timeout -k 5 60 bash -c ${quote(does)} 2>&1 | sed 's/^\\(HELD\\|BROKE\\)/attack ${name}: \\1/'`,
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
      ...[...ROAD, '--kernel', kernel, '--out-dir', out(), '--jobs', '1', '--json'],
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

  test.each(ATTACKS.map((each) => [each.what, each] as const))('gets nothing by: %s', async (_, { name }) => {
    const log = await readFile(cells.get('hostile')!.log!, 'latin1');
    expect(log).not.toContain(`attack ${name}: BROKE`);
    // Of a log that is cut the middle is not there.
    if (log.includes(`attack ${name}: begins`)) expect(log).toContain(`attack ${name}: HELD`);
    else expect(log).toContain('of this log are left out here');
  });

  test('decides nothing of what is packed beside the modules', async () => {
    const { package: path } = cells.get('hostile')!;
    const main = await readDeb(path!);
    expect(main.files.map((file) => file.path.replace(/^.*\//, ''))).toEqual(['dk2b_hostile.ko']);
    expect(main.control.get('Depends')).not.toContain('systemd');
    const common = await readDeb(join(out(), 'dk2b-hostile-modules-common_1.0-1_all.deb'));
    expect(common.files.map((file) => [file.path, file.mode, file.bytes().toString()])).toEqual([
      [EXTRA, 0o640, 'options dk2b_hostile x=1\n'],
    ]);
    expect([common.control.get('Conflicts'), common.control.get('Replaces')]).toEqual([
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
