import { readFile } from 'node:fs/promises';
import { expect, test } from 'vitest';
import * as commands from '../../src/cli/commands/index.js';
import * as variables from '../../src/lib/variables.js';
import * as errors from '../../src/model/errors.js';
import * as schemas from '../../src/model/result-schema.js';
import * as config from '../../src/options/config.js';
import * as forms from '../../src/options/forms.js';
import * as groups from '../../src/options/option.js';
import * as table from '../../src/options/table.js';

const ROOT = new URL('../../', import.meta.url);
interface Script {
  MODULES: Record<string, string>;
  referenceFiles: (from: object) => Promise<Map<string, string>>;
}
const { MODULES, referenceFiles } = (await import(
  /* @vite-ignore */ new URL('scripts/write-reference.mjs', ROOT).href
)) as Script;
const from = { commands, config, errors, forms, groups, schemas, table, variables };

test('schemas, reference and man page are up to date (npm run build && node scripts/write-reference.mjs)', async () => {
  expect(Object.keys(from)).toEqual(Object.keys(MODULES));
  const files = await referenceFiles(from);
  expect(files.size).toBeGreaterThan(12);
  for (const [path, text] of files) expect(await readFile(new URL(path, ROOT), 'utf8'), path).toBe(text);
});
