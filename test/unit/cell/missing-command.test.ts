import { expect, test } from 'vitest';
import { missingTools } from '../../../src/cell/missing-command.js';

test.each([
  ['/bin/sh: 1: bc: not found\nmake: *** [Makefile:3: all] Error 127\n', 'bc'],
  ['/bin/bash: line 1: flex: command not found\n', 'flex'],
  ['bash: bison: command not found\n', 'bison'],
  ['./conftest.sh: 12: gawk: not found\n', 'gawk'],
  ['make[2]: rsync: No such file or directory\n', 'rsync'],
  ['make: xxd: Command not found\n', 'xxd'],
  ['/usr/bin/env: ‘python’: No such file or directory\n', 'python-is-python3'],
  ['x.c:1:10: fatal error: openssl/opensslv.h: No such file or directory\n', 'libssl-dev'],
])('%j', (log, name) => {
  expect(missingTools(log, 'make ended with 2')).toContain(`--build-package ${name} adds it`);
});

test('a header of the kernel, a file of the source, and what makefiles ask for in vain are nothing', () => {
  const log = [
    'x.c:1:10: fatal error: linux/none.h: No such file or directory',
    'make: *** No rule to make target',
    'cat: VERSION: No such file or directory',
    '/bin/sh: 1: git: not found',
    "x.c:3:1: error: 'y: not found' undeclared",
  ].join('\n');
  expect(missingTools(log, "x.c:3:1: error: 'y: not found' undeclared")).toBeNull();
  expect(missingTools(log, '/bin/sh: 1: git: not found')).toContain('--build-package git');
});
