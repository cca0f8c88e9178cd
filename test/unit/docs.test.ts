import { existsSync, readdirSync, readFileSync, statSync } from 'node:fs';
import { dirname, join, relative, resolve } from 'node:path';
import { beforeAll, describe, expect, test } from 'vitest';
import { EXIT_CODE, type Fault } from '../../src/model/errors.js';
import { PACKAGE_ROOT } from '../../src/lib/paths.js';
import { cli } from './fixtures/cli-harness.js';

const read = (path: string): string => readFileSync(join(PACKAGE_ROOT, path), 'utf8');
const filesUnder = (folder: string, end: RegExp): string[] =>
  readdirSync(join(PACKAGE_ROOT, folder), { recursive: true, encoding: 'utf8' })
    .filter((name) => end.test(name))
    .map((name) => join(folder, name))
    .sort();

const PAGES = ['README.md', 'images/README.md', ...filesUnder('docs', /\.md$/)];
/** Without code blocks, in which nothing is a link or a heading. */
const prose = (text: string): string => text.replace(/^```.*?^```$/gms, '');
const blocks = (text: string): string[] =>
  [...text.matchAll(/^```\w*\n(.*?)^```$/gms)].map(([, code]) => code!);

/** The anchor that GitHub gives a heading. */
const anchorOf = (heading: string): string =>
  heading
    .toLowerCase()
    .replace(/[^\p{L}\p{N}\s_-]/gu, '')
    .trim()
    .replaceAll(' ', '-');
const anchorsOf = (text: string): string[] =>
  [...prose(text).matchAll(/^#+ (.+)$/gm)].map(([, heading]) => anchorOf(heading!));

/** Why a link of a page leads nowhere; null for one that leads somewhere, or out of the project. */
function brokenLink(page: string, link: string): string | null {
  if (/^(?:https?|mailto):/.test(link)) return null;
  const [path = '', anchor] = link.split('#');
  const target = path === '' ? page : relative(PACKAGE_ROOT, resolve(PACKAGE_ROOT, dirname(page), path));
  if (!existsSync(join(PACKAGE_ROOT, target))) return `${link}: no such file`;
  if (anchor === undefined || !target.endsWith('.md')) return null;
  return anchorsOf(read(target)).includes(anchor) ? null : `${link}: no such heading`;
}

test.each(PAGES)('links of %s lead somewhere', (page) => {
  const links = [...prose(read(page)).matchAll(/\]\(([^)\s]+)\)/g)].map(([, link]) => link!);
  // Generated pages are checked by their own test; until they are there, nothing can be said of links to them.
  const known = existsSync(join(PACKAGE_ROOT, 'docs/reference'))
    ? links
    : links.filter((link) => !/(?:^|\/)reference\//.test(link));
  expect(known.map((link) => brokenLink(page, link)).filter(Boolean)).toEqual([]);
});

test('a link that leads nowhere is found', () => {
  expect(brokenLink('docs/README.md', 'security.md#no-such-heading')).toContain('no such heading');
  expect(brokenLink('docs/README.md', 'guides/none.md')).toContain('no such file');
  expect(brokenLink('docs/README.md', 'security.md#in-short')).toBeNull();
});

test('every page can be reached from the index', () => {
  const index = read('docs/README.md');
  const unlisted = PAGES.filter((page) => page.startsWith('docs/') && page !== 'docs/README.md').filter(
    (page) => !index.includes(`](${page.slice('docs/'.length)})`),
  );
  expect(unlisted).toEqual([]);
});

test('README.md stays short', () => {
  expect(read('README.md').trimEnd().split('\n').length).toBeLessThanOrEqual(150);
});

describe('commands in code blocks', () => {
  /** What the program takes: the options of each command, by the command's words. */
  const options = new Map<string, Set<string>>();

  beforeAll(async () => {
    const take = async (words: string[]): Promise<void> => {
      const { stdout } = await cli([...words, '--help']);
      options.set(words.join(' '), new Set(stdout.match(/--[a-z][a-z-]+/g)));
      const commands = /^Commands:\n((?: .*\n)+)/m.exec(stdout)?.[1] ?? '';
      for (const [, name] of commands.matchAll(/^ {2}([a-z]+)\b/gm))
        if (name !== 'help') await take([...words, name!]);
    };
    await take([]);
  });

  /** Command lines of dkms2bin in a code block, without comments, continued lines joined. */
  const linesOf = (code: string): string[][] =>
    code
      .replaceAll('\\\n', ' ')
      .split('\n')
      .map((line) => line.replace(/(?:^|\s)#.*$/, '').replace(/^\$ /, ''))
      .flatMap((line) => /^(?:\.\/scripts\/)?dkms2bin((?:\s.*)?)$/.exec(line.trim())?.[1] ?? [])
      .map((rest) => rest.trim().split(/\s+/));

  /** What of a command line the program does not know. */
  const unknownIn = (words: string[]): string[] => {
    let command = '';
    const rest = [...words];
    while (rest[0] !== undefined && options.has(`${command} ${rest[0]}`.trim()))
      command = `${command} ${rest.shift()}`.trim();
    if (command === '' && rest[0] !== undefined && !rest[0].startsWith('-')) return [rest[0]];
    const known = options.get(command)!;
    const more = options.get(`${command} publish`) ?? new Set();
    return rest
      .filter((word) => word.startsWith('--'))
      .map((word) => word.replace(/[=\]].*$/, ''))
      .filter((word) => !known.has(word) && !more.has(word));
  };

  test.each(PAGES)('%s names what exists', (page) => {
    const lines = blocks(read(page)).flatMap(linesOf);
    expect(
      lines.map((words) => [words.join(' '), unknownIn(words)]).filter(([, bad]) => bad!.length > 0),
    ).toEqual([]);
  });

  // Its options are those of scripts/update-images.
  test.each(PAGES.filter((page) => page !== 'images/README.md'))(
    '%s mentions no option that nothing has',
    (page) => {
      const all = new Set([...options.values()].flatMap((each) => [...each]));
      const mentioned = [...prose(read(page)).matchAll(/`([^`\n]+)`/g)]
        .map(([, code]) => code!)
        // Words of other programs' command lines are theirs.
        .filter((code) =>
          /^--|^dkms2bin |^(?:build|matrix|prove|refresh|bisect|inspect|login|repo|images|worker|kernels) --/.test(
            code,
          ),
        )
        .flatMap((code) => code.match(/(?<![\w-])--[a-z][a-z-]+/g) ?? []);
      expect(mentioned.filter((option) => !all.has(option))).toEqual([]);
    },
  );

  test('what does not exist is found', () => {
    expect(options.size).toBeGreaterThan(20);
    expect(unknownIn(['matrix', '--resume', '--no-such'])).toEqual(['--no-such']);
    expect(unknownIn(['conjure', '--dkms', 'x'])).toEqual(['conjure']);
    expect(unknownIn(['repo', './out', '--keep', '3'])).toEqual([]);
    expect(linesOf('$ ./scripts/dkms2bin matrix \\\n  --resume   # goes on\nls\n')).toEqual([
      ['matrix', '--resume'],
    ]);
  });
});

test('npm scripts and files that docs name exist', () => {
  const { scripts } = JSON.parse(read('package.json')) as { scripts: Record<string, string> };
  const missing = PAGES.flatMap((page) => {
    const text = read(page);
    return [
      ...[...text.matchAll(/npm run ([\w:]+)/g)]
        .filter(([, name]) => !(name! in scripts))
        .map(([all]) => all),
      ...[...text.matchAll(/`((?:src|scripts|test|schema|cloud-init|images)\/[\w./-]+)`/g)]
        .map(([, path]) => path!)
        .filter((path) => !existsSync(join(PACKAGE_ROOT, path))),
    ].map((what) => `${page}: ${what}`);
  });
  expect(missing).toEqual([]);
});

test('the rooms that docs/contributing.md lists are those of src/', () => {
  const section = /^## The rooms.*?^## /ms.exec(read('docs/contributing.md'))![0];
  const listed = [...section.matchAll(/^\| (`.+?) \|/gm)].flatMap(([, cell]) =>
    [...cell!.matchAll(/`(\w+)`/g)].map(([, room]) => room!),
  );
  const rooms = readdirSync(join(PACKAGE_ROOT, 'src')).filter((name) =>
    statSync(join(PACKAGE_ROOT, 'src', name)).isDirectory(),
  );
  expect(listed.sort()).toEqual(rooms.sort());
});

describe('docs/troubleshooting.md', () => {
  const program = [
    'scripts/setup.sh',
    ...filesUnder('src', /\.ts$/),
    ...filesUnder('cloud-init', /\.(?:sh|py)$/),
  ]
    .map(read)
    .join('\n')
    .replaceAll('\\`', '`');

  /** The messages of the tables, each with the exit code that its section is for. */
  const rows = read('docs/troubleshooting.md')
    .split(/^## /m)
    .slice(1)
    .flatMap((section) => {
      const code = /^Exit code (\d+):/.exec(section)?.[1];
      return [...section.matchAll(/^\| `(.+?)` \|/gm)].map(([, message]) => ({
        message: message!,
        code: code === undefined ? null : Number(code),
      }));
    });

  const found = new Map<string, (number | null)[]>();

  /**
   * The strings of the program that begin with the message, in which `…` stands for anything: of each the exit code, null
   * where the source does not name the fault right before it.
   */
  const codesOf = (message: string): (number | null)[] => {
    const known = found.get(message);
    if (known) return known;
    const pattern = message
      .split('…')
      .map((part) => part.trim().replace(/[.*+?^${}()|[\]\\]/g, '\\$&'))
      .join('[^\\n]{0,200}?');
    const quoted = new RegExp(`(?:new Dkms2binError\\(\\s*'([a-z-]+)',\\s*)?['"\`]${pattern}`, 'g');
    const codes = [...program.matchAll(quoted)].map(([, fault]) =>
      fault === undefined ? null : EXIT_CODE[fault as Fault],
    );
    found.set(message, codes);
    return codes;
  };

  test('lists messages that the program has', () => {
    expect(rows.length).toBeGreaterThan(80);
    const letters = (text: string): number => text.replace(/[^a-z]/gi, '').length;
    expect(rows.filter(({ message }) => letters(message) < 8)).toEqual([]);
    expect(rows.filter(({ message }) => codesOf(message).length === 0)).toEqual([]);
  });

  test('lists them under their exit codes', () => {
    const wrong = rows.filter(({ message, code }) => {
      const codes = codesOf(message);
      return code !== null && !codes.includes(code) && !codes.includes(null);
    });
    expect(wrong).toEqual([]);
  });

  test('a message that nothing prints is found, and one under the wrong code', () => {
    expect(codesOf('The moon is in the wrong house for …')).toEqual([]);
    expect(codesOf('holds no dkms.conf')).toEqual([]);
    expect(codesOf('The list file … names no module')).toEqual([2]);
  });
});
