import { rm } from 'node:fs/promises';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { kernels, ROAD, temporary, tool, type Document } from '../vm/tool.js';
import { CASES, sourcesOf } from './modules.js';

// Modules that refuse, warn, hang and panic, all in one source: each is judged by itself, whatever becomes of the others.
let dir = '';
let cells: Document['cells'] = [];
let said = '';

beforeAll(async () => {
  dir = await temporary('verdicts');
  const source = await sourcesOf(CASES, dir);
  const kernel = (await kernels()).newest;
  const args = ['--dkms', source, ...ROAD, '--kernel', kernel, '--out-dir', `${dir}/out`, '--json'];
  const ended = await tool(args, { env: { DKMS2BIN_STATE: `${dir}/state` } });
  said = ended.stderr;
  expect(ended.code, said).toBe(1);
  cells = (JSON.parse(ended.stdout) as Document).cells;
});

afterAll(() => rm(dir, { recursive: true, force: true }));

test.each(CASES)('$name is $verdict', ({ name, verdict, reason }) => {
  const cell = cells.find(({ module }) => module === `dk2b-${name}`);
  expect(cell, said).toMatchObject({ verdict, fault: verdict === 'failed' ? 'module' : null });
  if (reason === null) expect(cell?.reason).toBeNull();
  else expect(cell?.reason).toMatch(reason);
});
