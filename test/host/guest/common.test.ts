import { spawnSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { expect, test } from 'vitest';

const COMMON = readFileSync(new URL('../../../cloud-init/guest/lib/common.sh', import.meta.url), 'utf8');

test('what a program cleans up at its end stays while its own helpers are stopped, however early', () => {
  const program = `${COMMON}
at_exit 'echo cleaned'
for ((n = 0; n < 200; n++)); do
  sleep 1 >/dev/null 2>&1 &
  kill $!
  wait $! 2>/dev/null
done
echo end`;
  const { stdout, stderr } = spawnSync('bash', ['-c', program], { encoding: 'utf8' });
  expect(stdout, stderr).toBe('end\ncleaned\n');
});
