import { spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { putFile } from '../fixtures/put.js';

// The step of the layer's script that looks at an image's lists of sources, on a root folder of its own.
const SCRIPT = readFileSync(new URL('../../../cloud-init/layer/native-layer.sh', import.meta.url), 'utf8');
const step = /^if grep -rqsEi[^]*?^fi$/m.exec(SCRIPT)![0];

test.each([
  ['sources.list', 'deb http://a.example/debian bookworm main\n', 0],
  ['sources.list', 'deb [signed-by=/k.gpg arch=amd64] http://trusted.example/on bookworm main\n', 0],
  ['sources.list', 'deb [trusted=no] http://a.example/debian bookworm main\n', 0],
  ['sources.list', 'deb [ trusted=yes ] http://a.example ./\n', 1],
  ['sources.list', 'deb [arch=amd64 trusted=1] http://a.example ./\n', 1],
  ['sources.list.d/a.list', 'deb [allow-insecure=true] http://a.example ./\n', 1],
  ['sources.list.d/a.list', 'deb [allow-weak=enable] http://a.example ./\n', 1],
  ['sources.list.d/a.sources', 'Types: deb\nURIs: http://a.example\nSuites: ./\nTrusted: On\n', 1],
])('%s with %j: a list that takes unsigned packages ends the making of a layer (%d)', (name, text, code) => {
  const root = mkdtempSync(join(tmpdir(), 'dkms2bin-test-'));
  putFile(root, `etc/apt/${name}`, text);
  const ended = spawnSync('bash', ['-c', `root=$1\n${step}`, 'bash', root], { encoding: 'utf8' });
  rmSync(root, { recursive: true });
  expect(ended.stderr).toBe(
    code === 0 ? '' : 'a list of package sources in the image takes unsigned packages\n',
  );
  expect(ended.status).toBe(code);
});
