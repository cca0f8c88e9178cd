import { execFileSync, spawnSync } from 'node:child_process';
import {
  appendFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  symlinkSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { execa } from 'execa';
import { afterAll, beforeAll, describe, expect, it, test } from 'vitest';
import { serveCompiler, type CompileService } from '../../../src/compiler/service.js';
import { corpus } from '../../hostile/corpus.js';
import { ARGS, StandInGuest, TREE, type Asked } from './guest.js';
import { openPort, type Port } from './port.js';
import { hostCompiler } from './root.js';

/** The host's end of compilations with this host's own gcc; the guest is a stand-in, or cc-host.c without a VM. */

const hasGcc = spawnSync('gcc', ['--version']).status === 0;
const why = hasGcc ? '' : ' (skipped: this host has no gcc)';

describe.skipIf(!hasGcc)(`compilations on the host${why}`, () => {
  let dir = '';
  let guest: StandInGuest;
  let service: CompileService;

  beforeAll(async () => {
    dir = mkdtempSync(join(tmpdir(), 'dk2b-compile-'));
    hostCompiler(join(dir, 'root'));
    writeFileSync(join(dir, 'root/usr/src/linux-headers-1/include/k.h'), '#define K 4\n');
    guest = await StandInGuest.listen(join(dir, 's'));
    const places = { socket: join(dir, 's'), root: join(dir, 'root'), dir: join(dir, 'cell') };
    service = await serveCompiler(places, new AbortController().signal);
  });
  afterAll(async () => {
    guest[Symbol.dispose]();
    await service[Symbol.asyncDispose]();
    rmSync(dir, { recursive: true, force: true });
  });

  const native = (text: string, ...args: string[]): Buffer => {
    const at = mkdtempSync(join(dir, 'n-'));
    writeFileSync(join(at, 'x.c'), text);
    execFileSync('gcc', ['-nostdinc', ...args, '-c', '-o', 'x.o', 'x.c'], { cwd: at });
    return readFileSync(join(at, 'x.o'));
  };

  it('gives the object that the compiler gives, and what it read', async () => {
    const answer = await guest.compile({
      files: { 'x.c': '#include "x.h"\nint x = X;\n', 'x.h': '#define X 3\n' },
    });
    expect(answer.refused).toBeNull();
    expect(answer.object).toEqual(native('int x = 3;\n'));
    expect(answer.deps).toBe('x.o: x.c x.h\n');
    expect(answer.said).toBe('');
    // The guest has to have the same compiler.
    expect(answer.unchanged).toContain('/usr/bin/gcc');
    expect(answer.unchanged.some((path) => path.endsWith('/cc1'))).toBe(true);
  });

  it('names a header of the kernel, and each folder on the way, for the guest to look at', async () => {
    const args = ['-I/usr/src/linux-headers-1/include', ...ARGS];
    const { object, unchanged } = await guest.compile({
      args,
      files: { 'x.c': '#include <k.h>\nint x = K;\n' },
    });
    expect(object).toEqual(native('int x = 4;\n'));
    for (const path of ['', '/include', '/include/k.h'])
      expect(unchanged).toContain(`/usr/src/linux-headers-1${path}`);
  });

  it('asks for a file again when it has changed, and only then', async () => {
    const first = { 'x.c': 'int x = 1;\n', 'big.h': '/* */\n' };
    await guest.compile({ files: first });
    expect((await guest.compile({ files: first })).fetched).toEqual([]);
    const { fetched, object } = await guest.compile({ files: { ...first, 'x.c': 'int x = 2;\n' } });
    expect(fetched).toEqual(['x.c']);
    expect(object).toEqual(native('int x = 2;\n'));
  });

  it('finds no header that the guest has removed', async () => {
    const text = '#if __has_include("gone.h")\nint x = 1;\n#else\nint x = 2;\n#endif\n';
    expect((await guest.compile({ files: { 'x.c': text, 'gone.h': '' } })).object).toEqual(
      native('int x = 1;\n'),
    );
    expect((await guest.compile({ files: { 'x.c': text } })).object).toEqual(native('int x = 2;\n'));
  });

  it('passes warnings on as they are', async () => {
    const { said } = await guest.compile({ args: ['-Wall', ...ARGS], files: { 'x.c': 'static int x;\n' } });
    expect(said).toMatch(/^x\.c:1:12: warning: 'x' defined but not used/);
    expect(said.endsWith('^\n')).toBe(true);
  });

  it('sees a folder of the guest and nothing of this machine', async () => {
    const secret = join(dir, 'secret.h');
    writeFileSync(secret, 'int secret;\n');
    const text = `#if __has_include("${secret}") || __has_include("/etc/passwd") || __has_include("/proc/self/environ")\n#error it is there\n#endif\n`;
    expect((await guest.compile({ files: { 'x.c': text } })).refused).toBeNull();
  });

  test.each(
    corpus<Asked & { what: string; add?: string[]; answer: string }>('compilations').map(
      (row) => [row.what, row] as const,
    ),
  )('refuses %s', async (_, { add = [], answer, ...asked }) => {
    const { refused } = await guest.compile({ ...asked, ...(add.length > 0 && { args: [...ARGS, ...add] }) });
    expect(refused).toMatch(new RegExp(answer));
    // And goes on.
    expect((await guest.compile()).object).toEqual(native('int x;\n'));
  });

  it('goes on after messages that are none', async () => {
    for (const noise of [Buffer.alloc(100_000, 0xff), Buffer.from('GET / HTTP/1.0\r\n\r\n')])
      guest.send(noise);
    expect((await guest.compile()).refused).toBeNull();
    // A compiler that was killed in the middle of a message.
    const half = StandInGuest.frame('L', Buffer.alloc(8, 1), Buffer.alloc(9000, 120));
    guest.send(half.subarray(0, 700));
    expect((await guest.compile()).object).toEqual(native('int x;\n'));
  });

  describe('with the stand-in of cloud-init/guest', () => {
    let port: Port;
    let own: CompileService;
    const source = join(import.meta.dirname, '../../../cloud-init/guest');
    const at = (...names: string[]): string => join(dir, 'vm', ...names);

    beforeAll(async () => {
      for (const name of ['build', 'lib', 'bin']) mkdirSync(at(name), { recursive: true });
      const files = ['cc-probes.c', 'cc-host.c', 'probes.c'].map((name) => join(source, name));
      execFileSync('gcc', ['-O2', `-DPORT="${at('port')}"`, '-o', at('bin', 'gcc'), ...files]);
      writeFileSync(at('lib', 'cc-stamp'), '');
      const now = Date.now() / 1000 + 5;
      utimesSync(at('lib', 'cc-stamp'), now, now);
      port = await openPort(at());
      const places = { socket: port.socket, root: join(dir, 'root'), dir: join(dir, 'cell-2') };
      own = await serveCompiler(places, new AbortController().signal);
    });
    afterAll(async () => {
      await own[Symbol.asyncDispose]();
      await port[Symbol.asyncDispose]();
    });

    /** Runs the stand-in where /var/lib/dkms and its own folder are ours. */
    const compile = async (): Promise<{ status: number | undefined; stderr: string }> => {
      const mounts = [
        '--dev-bind',
        '/',
        '/',
        '--tmpfs',
        '/run',
        '--tmpfs',
        '/var/lib',
        '--bind',
        at('build'),
        TREE,
      ];
      const standIn = ['--tmpfs', '/usr/local', '--bind', at('lib'), '/usr/local/lib/dkms2bin'];
      const env = [
        '--setenv',
        'DKMS2BIN_COMPILE',
        '1',
        '--setenv',
        'PATH',
        '/usr/bin',
        '--setenv',
        'LC_ALL',
        'C',
      ];
      const { exitCode, stderr } = await execa(
        'bwrap',
        ['--unshare-user', ...mounts, ...standIn, ...env, '--chdir', TREE, '--', at('bin', 'gcc'), ...ARGS],
        { reject: false, timeout: 30_000 },
      );
      return { status: exitCode, stderr };
    };
    const count = (): number => own.count.host;

    it('writes what the host compiled', async () => {
      const before = count();
      writeFileSync(at('build', 'x.c'), 'int x = 5;\n');
      expect(await compile()).toEqual({ status: 0, stderr: '' });
      expect(readFileSync(at('build', 'x.o'))).toEqual(native('int x = 5;\n'));
      expect(readFileSync(at('build', '.x.o.d'), 'utf8')).toBe('x.o: x.c\n');
      expect(count()).toBe(before + 1);
    });

    it('sends no log, which other jobs of the build go on writing', async () => {
      const before = count();
      writeFileSync(at('build', 'make.log'), '  CC [M]  x.o\n');
      writeFileSync(at('build', 'x.c'), 'int x = 8;\n');
      const writing = setInterval(() => appendFileSync(at('build', 'make.log'), 'more\n'.repeat(1000)), 1);
      try {
        expect(await compile()).toEqual({ status: 0, stderr: '' });
      } finally {
        clearInterval(writing);
      }
      expect(count()).toBe(before + 1);
      expect(existsSync(join(dir, 'cell-2', 'tree', 'x.c'))).toBe(true);
      expect(existsSync(join(dir, 'cell-2', 'tree', 'make.log'))).toBe(false);
    });

    it('minds no link to a document, and each that a compiler could look for', async () => {
      const before = count();
      writeFileSync(at('build', 'x.c'), 'int x = 9;\n');
      symlinkSync('/usr/share/doc/x/README.gz', at('build', 'README.gz'));
      expect(await compile()).toEqual({ status: 0, stderr: '' });
      expect(count()).toBe(before + 1);
      symlinkSync('/usr/share/x/y.h', at('build', 'y.h'));
      expect(await compile()).toEqual({ status: 0, stderr: '' });
      expect(count()).toBe(before + 1);
      rmSync(at('build', 'y.h'));
    });

    it('compiles itself what the host refuses, with its own message', async () => {
      const before = count();
      writeFileSync(at('build', 'x.c'), 'int x = y;\n');
      const { status, stderr } = await compile();
      expect(status).toBe(1);
      expect(stderr).toContain("x.c:1:9: error: 'y' undeclared");
      expect(count()).toBe(before);
    });

    it('does not believe an answer that rests on a file which has changed since the snapshot', async () => {
      writeFileSync(at('build', 'x.c'), 'int x = 6;\n');
      utimesSync(at('lib', 'cc-stamp'), 1, 1);
      expect(await compile()).toEqual({ status: 0, stderr: '' });
      // The same object either way; the host's was thrown away, and the guest's is without the time of the answer.
      expect(readFileSync(at('build', 'x.o'))).toEqual(native('int x = 6;\n'));
    });

    it('compiles itself when the host has gone', async () => {
      await port[Symbol.asyncDispose]();
      writeFileSync(at('build', 'x.c'), 'int x = 7;\n');
      expect(await compile()).toEqual({ status: 0, stderr: '' });
      expect(readFileSync(at('build', 'x.o'))).toEqual(native('int x = 7;\n'));
    });
  });
});
