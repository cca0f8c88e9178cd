import { expect, it } from 'vitest';
import { compile } from '../../../src/cell/compile.js';
import { collected, opened, run, withCellFolder } from '../../unit/fixtures/cell.js';
import { rows } from '../../unit/fixtures/guest.js';

withCellFolder();

it('compile keeps a failed run for which that was asked, and boots no verify VM', async () => {
  const { cell, events } = await opened(
    {
      'build.sh': { code: 1, stdout: rows('announce foo 1', 'module foo 1 failed no') },
      'collect.py': { stdout: collected('foo') },
    },
    { keepFailed: true, onFailure: () => Promise.resolve() },
  );
  await compile(cell);
  expect(run.record.kept).toBe(true);
  expect(events.filter((event) => event.startsWith('boot'))).toEqual(['boot build']);
  await run.save({ kept: false });
});
