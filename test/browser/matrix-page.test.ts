import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import type { AxeResults } from 'axe-core';
import type { Browser, BrowserContextOptions, Locator, Page } from 'playwright-core';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import type { MatrixRun } from '../../src/model/matrix.js';
import { OUTCOMES } from '../../src/report/grid.js';
import { matrixHtml } from '../../src/report/index.js';
import { cell, kernel, large, run } from '../unit/fixtures/matrix.js';
import { startChromium } from './chromium.js';

const NEW = kernel('6.1.0-5-amd64');
const OLD = kernel('6.1.0-4-amd64');
const NEXT = kernel('6.12.0-9-amd64', 'debian-13');
const PHONE = { viewport: { width: 360, height: 740 } };
const AXE = readFileSync(createRequire(import.meta.url).resolve('axe-core/axe.min.js'), 'utf8');

let browser: Browser | null = null;
let folder = '';
let page: Page;
let opened = 0;
/** What the page asked the network for, and what its own policy or its script complained of. */
let requests: string[] = [];
let complaints: string[] = [];

beforeAll(async () => {
  browser = await startChromium();
  if (!browser) console.warn('skipped: chromium is not installed');
  folder = mkdtempSync(join(tmpdir(), 'dkms2bin-page-'));
  page = await newPage();
});
afterAll(async () => {
  await browser?.close();
  rmSync(folder, { recursive: true, force: true });
});
beforeEach((context) => {
  if (!browser) context.skip('chromium is not installed');
});
afterEach(() => {
  expect(complaints).toEqual([]);
  expect(requests.filter((url) => !url.startsWith('file:'))).toEqual([]);
});

async function newPage(options: BrowserContextOptions = {}): Promise<Page> {
  if (!browser) return undefined as never;
  const made = await (await browser.newContext(options)).newPage();
  made.on('request', (request) => requests.push(request.url()));
  made.on('pageerror', (error) => complaints.push(error.message));
  made.on('console', (message) => complaints.push(message.text()));
  return made;
}

interface Look {
  colorScheme?: 'light' | 'dark';
  viewport?: { width: number; height: number };
  hash?: string;
}

async function open(
  now: MatrixRun,
  history: MatrixRun[] = [],
  { colorScheme = 'light', viewport = { width: 1280, height: 800 }, hash = '' }: Look = {},
): Promise<void> {
  // A name of its own: an address that differs in its hash alone would not be loaded again.
  const file = join(folder, `${(opened += 1)}.html`);
  writeFileSync(file, matrixHtml(now, history, { folder: '/srv/out/reports' }));
  await page.emulateMedia({ colorScheme });
  await page.setViewportSize(viewport);
  requests = [];
  complaints = [];
  await page.goto(`${pathToFileURL(file).href}${hash}`);
  expect(requests).toHaveLength(1);
}

/** Every outcome once, two distros, and the night before. */
const small = run(
  9,
  [NEW, OLD, NEXT],
  [
    cell('acpi_call', NEW, 'failed', {
      reason: 'acpi_call.c:12:5: error: too few arguments',
      logTail: `${'  CC part.o\n'.repeat(80)}make: *** Error 2\n`,
      kept: 'kept-run',
    }),
    cell('acpi_call', OLD, 'up-to-date'),
    cell('acpi_call', NEXT, 'built', { reproducible: true, signedBy: 'ab'.repeat(32) }),
    cell('zfs', NEW, 'skipped', { reason: 'BUILD_EXCLUSIVE_KERNEL does not match' }),
    cell('zfs', OLD, 'expected-failure', { reason: 'zfs.c:1:1: error: no', expected: 'waits for 2.2' }),
    cell('zfs', NEXT, 'unexpected-pass', { expected: 'waits for 2.3' }),
    cell('evdi', NEW, 'error', { reason: 'the mirror is down' }),
    cell('evdi', OLD, 'not-run'),
    cell('evdi', NEXT, 'built'),
  ],
);
const before = run(8, [NEW, OLD], [cell('acpi_call', NEW, 'built'), cell('acpi_call', OLD, 'built')]);

const cellOf = (module: string, release: string): Locator =>
  page.getByRole('button', { name: `${module} on ${release}:` });
const status = (): Promise<string | null> => page.getByRole('status').textContent();
const shownRows = (): Promise<string[]> => page.locator('tbody tr:visible th .name').allTextContents();
const search = (): Locator => page.getByRole('searchbox', { name: 'Search' });
const dialog = (): Locator => page.getByRole('dialog');

describe('the grid', () => {
  it('is a table that reads without colours', async () => {
    await open(small, [before]);
    await expectText(page.getByRole('heading', { level: 1 }), '2 of 9 cells did not build');
    expect(await page.getByRole('columnheader').allTextContents()).toEqual([
      'debian-12',
      'debian-13',
      'Module',
      ...[NEW, OLD, NEXT].map(({ release }) => release),
    ]);
    expect(await page.getByRole('rowheader').allTextContents()).toEqual([
      'acpi_call1.2.3',
      'zfs1.2.3',
      'evdi1.2.3',
    ]);
    const cells = await page.locator('tbody td button').all();
    const told = await Promise.all(
      cells.map(async (one) => [
        await one.getAttribute('aria-label'),
        await one.locator('.sign').innerText(),
      ]),
    );
    expect(told).toEqual(
      small.cells.map((one) => [
        `${one.module} on ${one.kernel}: ${OUTCOMES[one.outcome].word}`,
        OUTCOMES[one.outcome].sign,
      ]),
    );
    expect(new Set(told.map(([, sign]) => sign)).size).toBe(8);
  });

  it('says what changed, and each line opens its cell', async () => {
    await open(small, [before]);
    const changes = page.getByRole('region', { name: 'What changed' });
    const line = changes.getByRole('button', { name: 'acpi_call 6.1.0-5-amd64, built on 2026-03-08' });
    expect((await changes.textContent())?.replace(/\s+/g, ' ')).toContain(
      'acpi_call debian-12, first bad kernel 6.1.0-5-amd64, last good 6.1.0-4-amd64',
    );
    await line.click();
    await expectText(dialog().getByRole('heading', { level: 2 }), 'acpi_call 1.2.3 on 6.1.0-5-amd64');
  });
});

describe('search and filter', () => {
  beforeEach(async () => open(small, [before]));

  it('a module narrows the rows, a kernel the columns, and an error finds its module', async () => {
    expect(await status()).toBe('3 of 3 modules, 3 of 3 kernels, 9 cells');
    await search().fill('ZFS');
    expect([await shownRows(), await status()]).toEqual([['zfs'], '1 of 3 modules, 3 of 3 kernels, 3 cells']);
    await search().fill('zfs 6.12');
    expect(await page.getByRole('columnheader').allTextContents()).toEqual([
      'debian-13',
      'Module',
      NEXT.release,
    ]);
    expect(await status()).toBe('1 of 3 modules, 1 of 3 kernels, 1 cell');
    await search().fill('arguments');
    expect(await shownRows()).toEqual(['acpi_call']);
    await search().fill('nowhere');
    expect(await page.getByText('Nothing matches').isVisible()).toBe(true);
    await search().fill('');
    expect(await shownRows()).toHaveLength(3);
  });

  it('outcomes and distros narrow it too', async () => {
    const group = page.getByRole('group', { name: 'Show only' });
    await group.getByRole('button', { name: 'error 1' }).click();
    expect([await shownRows(), await status()]).toEqual([['evdi'], '1 of 3 modules, 3 of 3 kernels, 1 cell']);
    expect(await page.locator('tbody td button:visible').count()).toBe(1);
    await group.getByRole('button', { name: 'error 1' }).click();
    await page.getByRole('combobox', { name: 'Distro' }).selectOption('debian-13');
    expect(await status()).toBe('3 of 3 modules, 1 of 3 kernels, 3 cells');
  });
});

describe('by keyboard', () => {
  const focused = (): Promise<string | null> =>
    page.evaluate(() => document.activeElement?.getAttribute('aria-label') ?? null);

  it('arrows move, Enter opens, Escape closes and goes back to the cell', async () => {
    await open(small);
    await page.keyboard.press('/');
    expect(await search().evaluate((element) => element === document.activeElement)).toBe(true);
    await page.locator('.chip').last().focus();
    await page.keyboard.press('Tab');
    expect(await focused()).toBe('acpi_call on 6.1.0-5-amd64: failed');
    for (const key of ['ArrowDown', 'ArrowRight', 'ArrowDown', 'End', 'ArrowUp', 'ArrowUp'])
      await page.keyboard.press(key);
    expect(await focused()).toBe('acpi_call on 6.12.0-9-amd64: built');
    await page.keyboard.press('Home');
    const outline = await page.evaluate(() => getComputedStyle(document.activeElement!).outlineStyle);
    expect(outline).not.toBe('none');
    await page.keyboard.press('Enter');
    expect(await dialog().isVisible()).toBe(true);
    expect(await dialog().evaluate((element) => element.contains(document.activeElement))).toBe(true);
    await page.keyboard.press('Escape');
    expect(await dialog().isVisible()).toBe(false);
    expect(await focused()).toBe('acpi_call on 6.1.0-5-amd64: failed');
  });

  it('the grid is one stop of Tab, and arrows pass over what the filter hides', async () => {
    await open(small);
    await page.locator('.chip').last().focus();
    await page.keyboard.press('Tab');
    await page.keyboard.press('Tab');
    expect(await page.evaluate(() => document.activeElement?.closest('table') ?? null)).toBeNull();
    await page.locator('.chip', { hasText: 'built' }).click();
    await page.keyboard.press('Tab');
    expect(await focused()).toBe('acpi_call on 6.12.0-9-amd64: built');
    await page.keyboard.press('ArrowDown');
    expect(await focused()).toBe('evdi on 6.12.0-9-amd64: built');
  });
});

describe('a cell', () => {
  it('that failed shows the compiler error, the end of the log, phases, and how to log in', async () => {
    await open(small, [before]);
    await cellOf('acpi_call', NEW.release).click();
    await expectText(
      dialog().getByRole('region', { name: 'Reason' }),
      'acpi_call.c:12:5: error: too few arguments',
    );
    const log = dialog().getByRole('region', { name: 'The end of make.log' });
    expect(await log.innerText()).toMatch(/make: \*\*\* Error 2\n$/);
    const atEnd = await log.evaluate(
      (one) => one.scrollTop > 0 && one.scrollTop + one.clientHeight >= one.scrollHeight - 1,
    );
    expect(atEnd).toBe(true);
    const facts = await factsOf();
    expect(facts).toMatchObject({
      Source: 'acpi-call-dkms',
      Worker: 'build-1',
      Took: '59 s',
      'Log in': 'dkms2bin login kept-run',
    });
    expect(await dialog().locator('.phases li').allInnerTexts()).toContain('build 48 s');
    const widths = await dialog()
      .locator('.bar .part')
      .evaluateAll((parts) => parts.map((part) => part.getBoundingClientRect().width));
    expect(widths[3]).toBe(Math.max(...widths));
    expect(
      await dialog()
        .locator('.past li')
        .evaluateAll((items) => items.map((one) => one.getAttribute('title'))),
    ).toEqual(['2026-03-08 03:00 UTC: built', '2026-03-09 03:00 UTC: failed']);
  });

  it('that is built links its package from where the page lies, and tells signature and reproducibility', async () => {
    await open(small);
    await cellOf('acpi_call', NEXT.release).click();
    expect(
      await dialog()
        .getByRole('link', { name: /\.deb$/ })
        .getAttribute('href'),
    ).toBe(`./../acpi_call-modules-${NEXT.release}_1.2.3_amd64.deb`);
    expect(await factsOf()).toMatchObject({
      Reproducible: 'yes, a second build gave the same bytes',
      'Signed by': 'ab'.repeat(32),
    });
  });

  it('that was expected to fail says why', async () => {
    await open(small);
    await cellOf('zfs', OLD.release).click();
    expect(await dialog().innerText()).toMatch(/waits for 2\.2[^]*zfs\.c:1:1: error: no/);
  });

  it('has an address', async () => {
    await open(small);
    await cellOf('zfs', NEW.release).click();
    const { hash } = new URL(page.url());
    await open(small, [], { hash });
    await expectText(dialog().getByRole('heading', { level: 2 }), 'zfs 1.2.3 on 6.1.0-5-amd64');
  });

  const factsOf = (): Promise<Record<string, string>> =>
    dialog()
      .locator('dl')
      .evaluate((list) =>
        Object.fromEntries(
          [...list.querySelectorAll('dt')].map((dt) => [
            dt.textContent,
            dt.nextElementSibling?.textContent ?? '',
          ]),
        ),
      );
});

it('runs nothing of what a guest says, and shows it', async () => {
  const evil = '</script><img src=x onerror="window.hit=1"><script>window.hit=2</script><!--<script>';
  const name = `a"><img src=x onerror=window.hit=3>`;
  const hostile = cell(name, NEW, 'failed', {
    reason: evil,
    logTail: `${evil}\u2028`,
    version: evil,
    package: `/srv/out/javascript:hit`,
  });
  await open(run(9, [NEW], [hostile]), [run(8, [NEW], [cell(name, NEW, 'built')])]);
  await page.locator('td button').click();
  expect(await dialog().getByRole('region', { name: 'Reason' }).textContent()).toBe(evil);
  expect(await shownRows()).toEqual([name]);
  expect(await page.locator('img, body script:not([id=data]):not([type=module])').count()).toBe(0);
  expect(await page.evaluate(() => 'hit' in window)).toBe(false);
  expect(await dialog().getByRole('link').first().getAttribute('href')).toBe('./../javascript%3Ahit');
});

it('its policy lets no script but its own run, and no address be asked', async () => {
  await open(small);
  const stopped = await page.evaluate(async () => {
    const script = document.createElement('script');
    const image = document.createElement('img');
    const broken = new Promise((resolve) => (image.onerror = () => resolve('refused')));
    let trusted = true;
    try {
      script.text = 'window.hit = 1';
      document.body.append(script);
    } catch {
      trusted = false;
    }
    image.src = 'http://192.0.2.1/x.png';
    document.body.append(image);
    return { image: await broken, trusted, ran: 'hit' in window };
  });
  expect(stopped).toEqual({ image: 'refused', trusted: false, ran: false });
  expect(complaints.join('\n')).toMatch(/img-src|default-src/);
  complaints = [];
  requests = requests.filter((url) => !url.startsWith('http://192.0.2.1/'));
});

it('shows the table as text where scripts are switched off', async () => {
  const usual = page;
  page = await newPage({ javaScriptEnabled: false });
  await open(small);
  expect(await page.locator('noscript').innerText()).toMatch(/acpi_call +failed +up to date +built/);
  page = usual;
});

describe.each(['light', 'dark'] as const)('in %s mode', (colorScheme) => {
  it('signs and words stand out from what is behind them', async () => {
    await open(small, [before], { colorScheme });
    const back = await page.locator('body').evaluate((body) => getComputedStyle(body).backgroundColor);
    const brightness = luminance(back);
    expect(colorScheme === 'dark' ? brightness < 0.05 : brightness > 0.8).toBe(true);
    const colours = await page
      .locator('tbody td button, .chip .badge')
      .evaluateAll((all) =>
        all.map(
          (one) =>
            [one.className, getComputedStyle(one).color, getComputedStyle(one).backgroundColor] as const,
        ),
      );
    for (const [name, fore, behind] of colours)
      expect(contrast(fore, behind), String(name)).toBeGreaterThanOrEqual(4.5);
  });

  it.each([
    ['wide', {}],
    ['on a phone', PHONE],
  ])('axe finds nothing, %s', async (_, options) => {
    await open(small, [before], { colorScheme, ...options });
    expect(await violations()).toEqual([]);
    await cellOf('acpi_call', NEW.release).click();
    expect(await violations()).toEqual([]);
  });
});

describe('on a phone', () => {
  it('the page is no wider than the screen, and the grid scrolls in its place', async () => {
    const { now, before: nights } = large(100, 30);
    await open(now, nights, PHONE);
    expect(await overflow()).toBe(0);
    const grid = page.locator('.grid');
    expect(await grid.evaluate((one) => one.scrollWidth > one.clientWidth)).toBe(true);
    await grid.evaluate((one) => one.scrollTo(600, 600));
    const [head, frame] = [await page.locator('tbody th').nth(30).boundingBox(), await grid.boundingBox()];
    expect(Math.abs(head!.x - frame!.x)).toBeLessThan(3);
    expect(head!.width).toBeLessThan(frame!.width / 2);
    for (const card of await page.locator('.card').all()) await card.locator('summary').click();
    expect(await overflow()).toBe(0);
    await page.locator('td button.failed').first().click();
    expect(await overflow()).toBe(0);
    expect(await dialog().evaluate((one) => one.scrollWidth - one.clientWidth)).toBe(0);
  });

  const overflow = (): Promise<number> =>
    page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
});

it('holds 100 modules on 30 kernels', async () => {
  const { now, before: nights } = large(100, 30);
  await open(now, nights);
  expect(await status()).toBe('100 of 100 modules, 30 of 30 kernels, 3000 cells');
  expect(await page.locator('tbody td button').count()).toBe(3000);
  await search().fill('zfs_4 debian-13');
  expect([await shownRows(), await status()]).toEqual([
    ['zfs_4'],
    '1 of 100 modules, 10 of 30 kernels, 10 cells',
  ]);
  await page.locator('tbody tr:visible td:visible button').last().click();
  await expectText(dialog().getByRole('heading', { level: 2 }), 'zfs_4 1.2.3 on 6.12.0-51-amd64');
});

async function expectText(at: Locator, text: string): Promise<void> {
  expect(await at.textContent()).toBe(text);
}

/** What axe-core has against the page as it is now, by rule and place. */
async function violations(): Promise<string[]> {
  await page.evaluate(AXE);
  const found = await page.evaluate(() =>
    (globalThis as unknown as { axe: { run: () => Promise<AxeResults> } }).axe.run(),
  );
  return found.violations.map((one) => `${one.id}: ${one.nodes.map((node) => node.html).join(' ')}`);
}

/** Of WCAG: relative luminance of `rgb(…)`. */
function luminance(colour: string): number {
  const [r, g, b] = (colour.match(/[\d.]+/g) ?? []).map((part) => {
    const value = Number(part) / 255;
    return value <= 0.03928 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
  }) as [number, number, number];
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
}

function contrast(one: string, other: string): number {
  const [dark, bright] = [luminance(one), luminance(other)].sort((a, b) => a - b) as [number, number];
  return (bright + 0.05) / (dark + 0.05);
}
