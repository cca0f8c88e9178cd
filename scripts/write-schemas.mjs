// Writes schema/*.json from the zod schemas. Run after `npm run build`; a unit test fails while they are stale.
import { mkdir, writeFile } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';
import { format } from 'prettier';
import { configJsonSchema } from '../dist/options/config.js';
import {
  bisectJsonSchema,
  matrixJsonSchema,
  proofJsonSchema,
  refreshJsonSchema,
  resultJsonSchema,
} from '../dist/model/result-schema.js';

const folder = fileURLToPath(new URL('../schema/', import.meta.url));
await mkdir(folder, { recursive: true });
for (const [name, schema] of [
  ['config', configJsonSchema()],
  ['result', resultJsonSchema()],
  ['proof', proofJsonSchema()],
  ['refresh', refreshJsonSchema()],
  ['bisect', bisectJsonSchema()],
  ['matrix', matrixJsonSchema()],
]) {
  const text = await format(JSON.stringify(schema), { parser: 'json', printWidth: 110 });
  await writeFile(`${folder}${name}.schema.json`, text);
}
