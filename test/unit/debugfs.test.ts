import { expect, test } from 'vitest';
import { debugfsCommands } from '../../src/environment/debugfs.js';

test('what was not touched is left alone, but for what moved with its folder', () => {
  const before = 'd\ta\nf\ta/old\n';
  const after = '+\td\t755\t0\t0\t1.5\tb\t\n=\tf\t644\t0\t0\t1.5\tb/old\t\n';
  expect(debugfsCommands(before, after, '/r').split('\n').slice(0, -1)).toEqual([
    ...['rm "/a/old"', 'rmdir "/a"'],
    ...['mkdir "/b"', 'sif "/b" mode 040755', 'sif "/b" mtime @1'],
    ...['write "/r/b/old" "/b/old"', 'sif "/b/old" mtime @1'],
  ]);
  expect(debugfsCommands('f\tx\n', '=\tf\t644\t0\t0\t1.5\tx\t\n', '/r')).toBe('');
});

test.each([
  ['a quote', '+\tf\t644\t0\t0\t1\tsay "hi"\t\n'],
  ['a tab', '+\tf\t644\t0\t0\t1\ttab\there\t\n'],
  ['a newline', '+\tf\t644\t0\t0\t1\tnew\nline\t\n'],
  ['a pipe', '+\tp\t644\t0\t0\t1\tpipe\t\n'],
])('%s is refused', (_, after) => {
  expect(() => debugfsCommands('', after, '/r')).toThrow(/debugfs cannot/);
});
