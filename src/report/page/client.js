// Shows the data that the page carries. Text of guests goes through textContent alone; the page's policy forbids the rest.

/**
 * @import { PageCell, PageData, PageFile, PageStory } from '../page-data.js'
 * @import { Outcome } from '../../model/matrix.js'
 */

const data = /** @type {PageData} */ (JSON.parse(document.getElementById('data')?.textContent ?? ''));

/** From so many columns on, a cell has room for its sign only. */
const NARROW_FROM = 9;

/** As in style.css. */
const PHONE = '(max-width: 640px)';

/**
 * An element with attributes, and children as they are or as text.
 * @template {keyof HTMLElementTagNameMap} T
 * @param {T} tag
 * @param {Record<string, string | number | boolean | null>} [attributes] null and false leave one out
 * @param {(Node | string | null)[]} children
 * @returns {HTMLElementTagNameMap[T]}
 */
function el(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== null && value !== false) made.setAttribute(name, value === true ? '' : String(value));
  }
  made.append(...children.filter((child) => child !== null));
  return made;
}

/** @param {number} count @param {string} noun */
const plural = (count, noun) => `${count} ${noun}${count === 1 ? '' : 's'}`;

/** @param {string} iso */
const moment = (iso) => `${iso.slice(0, 10)} ${iso.slice(11, 16)} UTC`;

/** @param {number} seconds */
function duration(seconds) {
  if (seconds < 60) return `${seconds < 10 ? seconds.toFixed(1) : Math.round(seconds)} s`;
  const minutes = Math.floor(seconds / 60);
  return minutes < 60
    ? `${minutes} min ${Math.round(seconds % 60)} s`
    : `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}

/** @param {Outcome} outcome */
function badge(outcome) {
  const { sign, word } = data.words[outcome];
  return el('span', { class: `badge ${outcome}` }, el('span', { 'aria-hidden': 'true' }, sign), ` ${word}`);
}

// ---- The head: what came out, and what changed --------------------------------------------------------------------

function head() {
  const count = new Map(data.counts);
  const bad = (count.get('failed') ?? 0) + (count.get('error') ?? 0);
  const cells = data.counts.reduce((sum, [, n]) => sum + n, 0);
  const verdict =
    bad === 0
      ? `All ${plural(cells, 'cell')} as expected`
      : `${bad} of ${plural(cells, 'cell')} did not build`;
  const took = (Date.parse(data.endedAt) - Date.parse(data.startedAt)) / 1000;
  const facts = [
    moment(data.startedAt),
    `took ${duration(took)}`,
    ...(data.accelerators.length > 0 ? [data.accelerators.join(', ')] : []),
    `dkms2bin ${data.tool}`,
  ];
  return el(
    'header',
    {},
    el('p', { class: 'kind' }, 'dkms2bin matrix'),
    el('h1', {}, bad === 0 && !data.complete ? 'The run was ended early' : verdict),
    el('p', { class: 'facts' }, facts.join(' · ')),
    bad > 0 && !data.complete
      ? el('p', { class: 'facts' }, 'The run was ended before all cells had their turn.')
      : null,
  );
}

function changes() {
  const lists = [
    stories('Broke since the last run', data.broke),
    stories(
      'Broke with the newest kernel',
      data.broken.filter((story) => story.withNewest),
    ),
    stories(
      'Broken for longer',
      data.broken.filter((story) => !story.withNewest),
    ),
    stories('Fixed since the last run', data.fixed),
  ].filter((list) => list !== null);
  if (lists.length === 0) return null;
  return el('section', { class: 'changes', 'aria-label': 'What changed' }, ...lists);
}

/** @param {string} title @param {PageStory[]} all */
function stories(title, all) {
  if (all.length === 0) return null;
  const items = all.map((story) => {
    const { row, column } = story;
    const parts = story.parts.map((part, i) => el('span', {}, part, i < story.parts.length - 1 ? ', ' : ''));
    const text = [el('strong', {}, story.module), ' ', ...parts];
    if (row === null || column === null) return el('li', {}, el('div', { class: 'story' }, ...text));
    const button = el('button', { type: 'button', class: 'story' }, ...text);
    button.addEventListener('click', () => openCell(row, column));
    return el('li', {}, button);
  });
  return el(
    'details',
    { class: 'card', open: !matchMedia(PHONE).matches },
    el('summary', {}, el('h2', {}, title), ' ', el('span', { class: 'count' }, String(all.length))),
    el('ul', {}, ...items),
  );
}

// ---- The grid -----------------------------------------------------------------------------------------------------

const groups = kernelGroups();
const columnHeads = data.kernels.map((kernel) =>
  el('th', { scope: 'col', title: kernel.packageVersion }, el('span', {}, kernel.release)),
);
const groupHeads = groups.map(({ title, columns }) =>
  el('th', { scope: 'colgroup', class: 'group', colspan: columns.length }, el('span', {}, title)),
);
const corner = el('th', { scope: 'col', class: 'corner' }, 'Module');
/** Each cell's `<td>` by row and column. */
const tds = data.rows.map((row, r) =>
  row.cells.map((cell, c) =>
    el('td', { class: startsGroup(c) ? 'first' : null }, cell ? cellButton(cell, r, c) : null),
  ),
);
const trs = data.rows.map((_row, r) => el('tr', {}, rowHead(r), ...(tds[r] ?? [])));
const table = el(
  'table',
  {},
  el('caption', { class: 'unseen' }, 'Modules by kernel. Arrow keys move between cells, Enter opens one.'),
  el(
    'thead',
    {},
    el('tr', {}, el('td', { class: 'corner' }), ...groupHeads),
    el('tr', {}, corner, ...columnHeads),
  ),
  el('tbody', {}, ...trs),
);

/** Neighbouring kernels of one distro and architecture. */
function kernelGroups() {
  /** @type {{ title: string, columns: number[] }[]} */
  const found = [];
  data.kernels.forEach((kernel, c) => {
    const title = kernel.arch === 'x86_64' ? kernel.distro : `${kernel.distro} ${String(kernel.arch)}`;
    const last = found.at(-1);
    if (last?.title === title) last.columns.push(c);
    else found.push({ title, columns: [c] });
  });
  return found;
}

/** @param {number} c */
function startsGroup(c) {
  return groups.some(({ columns }) => columns[0] === c);
}

/** @param {number} r */
function rowHead(r) {
  const { name, source, cells } = /** @type {PageData['rows'][number]} */ (data.rows[r]);
  const versions = [...new Set(cells.flatMap((cell) => (cell?.version ? [cell.version] : [])))].join(', ');
  return el(
    'th',
    { scope: 'row', title: `${name} ${versions}, ${source}` },
    el('span', { class: 'name' }, name),
    el('span', { class: 'small' }, versions),
  );
}

/** @param {PageCell} cell @param {number} r @param {number} c */
function cellButton(cell, r, c) {
  const { sign, word } = data.words[cell.outcome];
  const label = `${data.rows[r]?.module} on ${data.kernels[c]?.release}: ${word}`;
  return el(
    'button',
    {
      type: 'button',
      class: cell.outcome,
      'aria-label': label,
      title: label,
      tabindex: -1,
      'data-r': r,
      'data-c': c,
    },
    el('span', { class: 'sign' }, sign),
    el('span', { class: 'word' }, word),
  );
}

/** @param {number} r @param {number} c */
function buttonAt(r, c) {
  return tds[r]?.[c]?.querySelector('button') ?? null;
}

/** The one cell that Tab reaches; arrow keys move it. */
let current = /** @type {HTMLButtonElement | null} */ (null);

/** @param {HTMLButtonElement | null} button */
function setCurrent(button) {
  current?.setAttribute('tabindex', '-1');
  columnHeads[Number(current?.dataset.c)]?.classList.remove('here');
  current = button;
  current?.setAttribute('tabindex', '0');
}

/** @param {HTMLButtonElement} button */
const isShown = (button) => button.checkVisibility({ visibilityProperty: true });

/** Moves from the cell at hand by whole steps until a shown cell is met. @param {number} down @param {number} right */
function move(down, right) {
  if (!current) return;
  let [r, c] = [Number(current.dataset.r) + down, Number(current.dataset.c) + right];
  for (; r >= 0 && r < data.rows.length && c >= 0 && c < data.kernels.length; r += down, c += right) {
    const button = buttonAt(r, c);
    if (button && isShown(button)) return focusCell(button);
  }
}

/** @param {HTMLButtonElement} button */
function focusCell(button) {
  setCurrent(button);
  button.focus();
}

/** @type {Record<string, () => void>} */
const KEYS = {
  ArrowUp: () => move(-1, 0),
  ArrowDown: () => move(1, 0),
  ArrowLeft: () => move(0, -1),
  ArrowRight: () => move(0, 1),
  Home: () => ends(0, 1),
  End: () => ends(data.kernels.length - 1, -1),
};

/** The first shown cell of this row from column `c` on. @param {number} c @param {number} step */
function ends(c, step) {
  const r = Number(current?.dataset.r);
  for (let at = c; at >= 0 && at < data.kernels.length; at += step) {
    const button = buttonAt(r, at);
    if (button && isShown(button)) return focusCell(button);
  }
}

table.addEventListener('keydown', (event) => {
  const act = event.ctrlKey || event.altKey || event.metaKey ? undefined : KEYS[event.key];
  if (!act) return;
  event.preventDefault();
  act();
});
table.addEventListener('focusin', ({ target }) => {
  const button = target instanceof HTMLElement ? target.closest('button') : null;
  if (!button) return;
  setCurrent(button);
  columnHeads[Number(button.dataset.c)]?.classList.add('here');
});
table.addEventListener('focusout', () => columnHeads[Number(current?.dataset.c)]?.classList.remove('here'));
table.addEventListener('click', ({ target }) => {
  const button = target instanceof Element ? target.closest('button') : null;
  if (button) openCell(Number(button.dataset.r), Number(button.dataset.c));
});

// ---- Filter and search --------------------------------------------------------------------------------------------

const search = el('input', {
  type: 'search',
  id: 'search',
  placeholder: 'module, kernel or error text',
  autocomplete: 'off',
  spellcheck: 'false',
  'aria-keyshortcuts': '/',
});
const distros = [...new Set(data.kernels.map((kernel) => kernel.distro))];
const distro = el(
  'select',
  { id: 'distro' },
  el('option', { value: '' }, 'all'),
  ...distros.map((name) => el('option', { value: name }, name)),
);
const chips = data.counts.map(([outcome, count]) => {
  const chip = el(
    'button',
    { type: 'button', class: 'chip', 'aria-pressed': 'false' },
    badge(outcome),
    ' ',
    String(count),
  );
  chip.dataset.outcome = outcome;
  chip.addEventListener('click', () => {
    chip.setAttribute('aria-pressed', String(chip.getAttribute('aria-pressed') !== 'true'));
    filter();
  });
  return chip;
});
const status = el('p', { role: 'status', class: 'status' });
const nothing = el(
  'p',
  { class: 'nothing', hidden: true },
  'Nothing matches. Clear the search or the filters.',
);
search.addEventListener('input', filter);
distro.addEventListener('change', filter);

const names = data.rows.map(({ module, source, cells }) =>
  [module, source, ...new Set(cells.map((cell) => cell?.version ?? ''))].join('\n').toLowerCase(),
);
const texts = data.rows.map(({ cells }) =>
  [...new Set(cells.map((cell) => (cell ? `${cell.reason}\n${cell.expected ?? ''}` : '')))]
    .join('\n')
    .toLowerCase(),
);
const releases = data.kernels.map((kernel) =>
  [kernel.release, kernel.distro, kernel.packageVersion ?? ''].join('\n').toLowerCase(),
);

/** A word that names modules or is in their errors chooses rows; else one that names kernels chooses columns. */
function wanted() {
  /** @type {string[]} */
  const rowWords = [];
  /** @type {string[]} */
  const columnWords = [];
  for (const term of search.value.toLowerCase().split(/\s+/).filter(Boolean)) {
    const named = names.some((name) => name.includes(term));
    const isKernel = !named && releases.some((release) => release.includes(term));
    (isKernel ? columnWords : rowWords).push(term);
  }
  return { rowWords, columnWords };
}

function filter() {
  const { rowWords, columnWords } = wanted();
  const pressed = new Set(
    chips.filter((chip) => chip.getAttribute('aria-pressed') === 'true').map((chip) => chip.dataset.outcome),
  );
  const columns = data.kernels.map(
    (kernel, c) =>
      (distro.value === '' || kernel.distro === distro.value) &&
      columnWords.every((term) => releases[c]?.includes(term)),
  );
  showColumns(columns);
  const sum = { rows: 0, cells: 0 };
  data.rows.forEach(({ cells }, r) => {
    const named = rowWords.every((term) => names[r]?.includes(term) || texts[r]?.includes(term));
    let count = 0;
    cells.forEach((cell, c) => {
      const fits = cell !== null && (pressed.size === 0 || pressed.has(cell.outcome));
      tds[r]?.[c]?.classList.toggle('off', !fits);
      if (fits && columns[c]) count += 1;
    });
    const shown = named && count > 0;
    const tr = trs[r];
    if (tr) tr.hidden = !shown;
    if (shown) {
      sum.rows += 1;
      sum.cells += count;
    }
  });
  const kernels = columns.filter(Boolean).length;
  status.textContent = `${sum.rows} of ${plural(data.rows.length, 'module')}, ${kernels} of ${plural(data.kernels.length, 'kernel')}, ${plural(sum.cells, 'cell')}`;
  nothing.hidden = sum.rows > 0;
  table.hidden = sum.rows === 0;
  if (!current || !isShown(current)) setCurrent(firstShown());
}

function firstShown() {
  for (const row of tds) {
    for (const td of row) {
      const button = td.querySelector('button');
      if (button && isShown(button)) return button;
    }
  }
  return null;
}

/** @type {string} */
let shownColumns = '';

/** @param {boolean[]} columns */
function showColumns(columns) {
  const key = columns.join();
  if (key === shownColumns) return;
  shownColumns = key;
  columns.forEach((shown, c) => {
    if (columnHeads[c]) columnHeads[c].hidden = !shown;
    for (const row of tds) if (row[c]) row[c].hidden = !shown;
  });
  groups.forEach((group, g) => {
    const span = group.columns.filter((c) => columns[c]).length;
    const th = groupHeads[g];
    if (!th) return;
    th.hidden = span === 0;
    th.colSpan = Math.max(1, span);
  });
  table.classList.toggle('narrow', columns.filter(Boolean).length >= NARROW_FROM);
  measure();
}

/** A distro's name stays in sight beside the first column, which is as wide as its longest module. */
function measure() {
  table.style.setProperty('--head', `${corner.offsetWidth}px`);
}
window.addEventListener('resize', measure);

document.addEventListener('keydown', (event) => {
  if (event.key !== '/' || event.ctrlKey || event.metaKey || event.altKey || dialog.open) return;
  if (event.target instanceof HTMLInputElement || event.target instanceof HTMLSelectElement) return;
  event.preventDefault();
  search.focus();
});

// ---- The details of a cell ----------------------------------------------------------------------------------------

const dialog = el('dialog', { 'aria-labelledby': 'cell-title' });
dialog.addEventListener('close', () => {
  dialog.replaceChildren();
  history.replaceState(null, '', location.pathname + location.search);
});
// A click on the backdrop is one on the dialog itself, which has no surface of its own.
dialog.addEventListener('click', (event) => {
  if (event.target === dialog) dialog.close();
});

/** @param {number} r @param {number} c */
function openCell(r, c) {
  const cell = data.rows[r]?.cells[c];
  const kernel = data.kernels[c];
  if (!cell || !kernel) return;
  dialog.replaceChildren(details(cell, r, c));
  if (!dialog.open) dialog.showModal();
  dialog.scrollTop = 0;
  for (const log of dialog.querySelectorAll('.log')) log.scrollTop = log.scrollHeight;
  const { module, source } = /** @type {PageData['rows'][number]} */ (data.rows[r]);
  const { distro, release } = kernel;
  history.replaceState(null, '', `#${new URLSearchParams({ source, module, distro, kernel: release })}`);
}

/** Opens the cell that the address names. */
function openAddressed() {
  const asked = new URLSearchParams(location.hash.slice(1));
  const r = data.rows.findIndex(
    (row) => row.module === asked.get('module') && row.source === asked.get('source'),
  );
  const c = data.kernels.findIndex(
    (k) => k.release === asked.get('kernel') && k.distro === asked.get('distro'),
  );
  openCell(r, c);
}

/** @param {PageCell} cell @param {number} r @param {number} c */
function details(cell, r, c) {
  const kernel = /** @type {PageData['kernels'][number]} */ (data.kernels[c]);
  const row = /** @type {PageData['rows'][number]} */ (data.rows[r]);
  const close = el('button', { type: 'button', class: 'close', 'aria-label': 'Close', autofocus: true }, '✕');
  close.addEventListener('click', () => dialog.close());
  const where = [
    kernel.distro,
    kernel.arch,
    ...(kernel.packageVersion ? [`package ${kernel.packageVersion}`] : []),
  ];
  return el(
    'article',
    {},
    el(
      'div',
      { class: 'title' },
      el(
        'h2',
        { id: 'cell-title' },
        row.module,
        cell.version ? ` ${cell.version}` : '',
        el('span', {}, ` on ${kernel.release}`),
      ),
      close,
    ),
    el('p', { class: 'facts' }, badge(cell.outcome), ' ', where.join(' · ')),
    cell.expected === null ? null : block('Why a failure was expected', el('p', {}, cell.expected)),
    cell.reason === '' ? null : block(reasonTitle(cell), scrolled('reason', 'Reason', cell.reason)),
    cell.logTail === null
      ? null
      : block('The end of make.log', scrolled('log', 'The end of make.log', cell.logTail)),
    facts(cell, row.source),
    phases(cell),
    past(cell),
  );
}

/** @param {PageCell} cell */
function reasonTitle(cell) {
  if (cell.outcome === 'failed' || cell.outcome === 'expected-failure') return 'First error';
  return cell.outcome === 'error' ? 'What went wrong' : 'Why';
}

/** @param {string} title @param {Node[]} content */
function block(title, ...content) {
  return el('section', {}, el('h3', {}, title), ...content);
}

/** @param {string} kind @param {string} label @param {string} text */
function scrolled(kind, label, text) {
  return el('pre', { class: kind, tabindex: 0, role: 'region', 'aria-label': label }, text);
}

/** @param {PageCell} cell @param {string} source */
function facts(cell, source) {
  const answer = cell.reproducible ? 'yes, a second build gave the same bytes' : 'no';
  const reproducible = cell.reproducible === null ? null : answer;
  /** @type {[string, Node | string | null][]} */
  const all = [
    ['Source', source],
    ['Package', file(cell.package)],
    ['Log', file(cell.log)],
    ['Reproducible', reproducible],
    ['Signed by', cell.signedBy ?? (cell.package === null ? null : 'not signed')],
    ['Worker', cell.worker],
    ['Began', cell.startedAt === null ? null : moment(cell.startedAt)],
    ['Took', cell.seconds === null ? null : duration(cell.seconds)],
    ['Log in', cell.kept === null ? null : el('code', {}, `dkms2bin login ${cell.kept}`)],
  ];
  const rows = all
    .filter(([, value]) => value !== null)
    .flatMap(([name, value]) => [el('dt', {}, name), el('dd', {}, value)]);
  return el('dl', {}, ...rows);
}

/** @param {PageFile | null} found */
function file(found) {
  if (found === null) return null;
  return found.href === null ? found.name : el('a', { href: found.href }, found.name);
}

/** @param {PageCell} cell */
function phases(cell) {
  if (cell.phases.length === 0) return null;
  const total = cell.phases.reduce((sum, [, seconds]) => sum + seconds, 0);
  const bar = el('div', { class: 'bar', 'aria-hidden': 'true' });
  const list = el('ol', { class: 'phases' });
  cell.phases.forEach(([name, seconds], i) => {
    const part = el('span', { class: `part p${i % 6}` });
    part.style.flexGrow = String(total > 0 ? seconds / total : 1);
    bar.append(part);
    list.append(
      el(
        'li',
        {},
        el('span', { class: `dot p${i % 6}`, 'aria-hidden': 'true' }),
        name,
        ' ',
        el('b', {}, duration(seconds)),
      ),
    );
  });
  return block('Phases', bar, list);
}

/** @param {PageCell} cell */
function past(cell) {
  const items = data.pastRuns.flatMap(({ startedAt }, i) => {
    const outcome = cell.past[i];
    return outcome ? [{ outcome, at: startedAt }] : [];
  });
  if (items.length === 0) return null;
  const shown = [...items, { outcome: cell.outcome, at: data.startedAt }];
  return block(
    'Earlier runs',
    el(
      'ol',
      { class: 'past' },
      ...shown.map(({ outcome, at }) => {
        const { sign, word: name } = data.words[outcome];
        return el(
          'li',
          { title: `${moment(at)}: ${name}` },
          el('span', { class: `cell ${outcome}`, 'aria-hidden': 'true' }, sign),
          el('span', { class: 'unseen' }, `${name}, `),
          el('time', { datetime: at }, at.slice(5, 10)),
        );
      }),
    ),
  );
}

// ---- All together -------------------------------------------------------------------------------------------------

const toolbar = el(
  'div',
  { class: 'toolbar', role: 'search' },
  el('div', { class: 'field wide' }, el('label', { for: 'search' }, 'Search'), search),
  distros.length < 2 ? null : el('div', { class: 'field' }, el('label', { for: 'distro' }, 'Distro'), distro),
  el('div', { class: 'chips', role: 'group', 'aria-label': 'Show only' }, ...chips),
);
document.body.append(
  el('main', {}, head(), changes(), toolbar, status, el('div', { class: 'grid' }, table), nothing),
  dialog,
);
filter();
openAddressed();
window.addEventListener('hashchange', openAddressed);
