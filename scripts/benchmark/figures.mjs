// From what was measured to figures and their table.
import { columns, show, spread } from './measure.mjs';
import { MODULES } from './options.mjs';

/** By figure: the tool's samples, and how many times faster than by hand it should be. */
const BY_HAND_TARGETS = { 'second-module': ['second', 4], 'new-kernel': ['new', 2], cold: ['cold', 1] };

/** The most seconds of overhead, by accelerator (`kvm` or any other) and by proof. */
const OVERHEAD_TARGETS = { kvm: { proof: 3, bare: 1 }, emulated: { proof: 10, bare: 4 } };

const of = (list, key) => list.map((sample) => sample[key]);

/**
 * The figures, in the order of the table: `values` and `cpu` are of the single runs, `target` is [≤, ≥ or =, value]. A
 * spread's middle is what is held against the target.
 */
export function figuresOf({ samples, options, accelerator }) {
  const wants = (name) => options.wanted.has(name);
  return [
    ...byHandRatios(samples),
    ...roadFigures(samples.roads),
    ...(wants('native') ? nativeRatios(samples) : []),
    ...compileFigures(samples.compile),
    ...byHandSeconds(samples),
    ...buildSeconds(samples, wants('native') || wants('overhead')),
    ...(wants('overhead') ? overheads(samples, accelerator?.name === 'kvm' ? 'kvm' : 'emulated') : []),
    ...startFigures(samples),
    ...confinementFigures(samples),
    ...(wants('tool-memory') ? toolMemory(samples) : []),
    ...matrixFigures(samples.matrix),
    ...sameBytes(samples),
  ]
    .filter(({ values }) => values.length > 0)
    .map((figure) => {
      const { min, median, max } = spread(figure.values);
      return { ...figure, min, median, max, met: figure.target ? isMet(median, figure.target) : null };
    });
}

function isMet(value, [how, target]) {
  if (how === '≤') return value <= target;
  return how === '≥' ? value >= target : value === target;
}

const ratios = (over, under, key) =>
  under.map((s, at) => over[Math.min(at, over.length - 1)][key] / s[key]).filter(Number.isFinite);

function byHandRatios(samples) {
  return Object.entries(BY_HAND_TARGETS).map(([name, [kind, least]]) => {
    const tool = samples[kind];
    const cpuRatios = ratios(samples.hand, tool, 'cpu');
    return {
      ...{ name, figure: name, what: 'by hand ÷ dkms2bin', unit: '×' },
      values: ratios(samples.hand, tool, 'wall'),
      target: ['≥', least],
      ...(cpuRatios.length > 0 ? { cpuText: `${show(spread(cpuRatios).median)} ×`, cpuRatios } : {}),
    };
  });
}

/** Rounds in which both roads were gone, cold. */
function roadFigures(roads) {
  const of = (road, state) => roads.filter((s) => s.road === road && s.state === state);
  const [official, bootstrap] = [of('official', 'cold'), of('bootstrap', 'cold')];
  return [
    {
      ...{ name: 'roads', figure: 'roads', unit: '×' },
      what: 'cold: official ÷ (bootstrapped − its bootstrap)',
      values: official.map((s, at) => s.wall / (bootstrap[at].wall - bootstrap[at].bootstrap)),
      target: ['≤', 1.2],
    },
    ...['cold', 'warm'].flatMap((state) =>
      ['official', 'bootstrap'].map((road) =>
        whole(`${road}-${state}`, 'roads', `${state}, whole, with proof`, of(road, state)),
      ),
    ),
  ];
}

function nativeRatios(samples) {
  return MODULES.map(({ name, native: most }) => {
    const native = samples.native.filter((s) => s.module === name);
    const guest = samples.warm.filter((s) => s.module === name && !s.proof);
    const same = native.length > 0 && guest.length > 0 && native.every((s) => s.bytes === guest[0].bytes);
    return {
      ...{ name: `native-${name}`, figure: 'native', unit: '×' },
      what: `guest's dkms build ÷ native, ${same ? 'same' : 'other'} bytes`,
      values: native.slice(0, guest.length).map((s, at) => guest[at].phases.build / s.wall),
      target: ['≤', most],
    };
  });
}

function compileFigures(compile) {
  return MODULES.flatMap(({ name, host: least }) => {
    const by = (where) => compile.filter((s) => s.module === name && s.where === where);
    const [guest, host] = [by('guest'), by('host')];
    const same = guest.length > 0 && [...guest, ...host].every((s) => s.bytes === guest[0].bytes);
    const seconds = (where, runs) => ({
      ...{ name: `compile-${where}-${name}`, figure: 'compile', unit: 's' },
      what: `dkms build, compiled by the ${where}`,
      values: of(of(runs, 'phases'), 'build'),
      cpu: of(runs, 'cpu'),
    });
    return [
      {
        ...{ name: `compile-${name}`, figure: 'compile', unit: '×' },
        what: `dkms build: guest ÷ host, ${same ? 'same' : 'other'} bytes`,
        values: host.map((s, at) => guest[at].phases.build / s.phases.build),
        target: ['≥', least],
      },
      seconds('guest', guest),
      seconds('host', host),
    ];
  });
}

/** Wall seconds of whole commands with those of all their processes. */
const whole = (name, figure, what, runs) => ({
  ...{ name, figure, what, unit: 's', values: of(runs, 'wall'), cpu: of(runs, 'cpu') },
});

function byHandSeconds(samples) {
  return [
    whole('by-hand', 'second-module', 'the recipe, whole', samples.hand),
    ...Object.entries(BY_HAND_TARGETS).map(([name, [kind]]) =>
      whole(name, name, 'dkms2bin, whole, with proof', samples[kind]),
    ),
  ];
}

function buildSeconds(samples, withGuest) {
  return MODULES.flatMap(({ name }) => {
    const native = samples.native.filter((s) => s.module === name);
    const guest = samples.warm.filter((s) => s.module === name);
    return [
      whole(`native-${name}`, 'native', 'dkms build in the chroot', native),
      {
        ...{ name: `guest-${name}`, figure: 'native', what: 'dkms build in the guest', unit: 's' },
        values: withGuest ? of(of(guest, 'phases'), 'build') : [],
      },
    ];
  });
}

function overheads(samples, accelerator) {
  return MODULES.flatMap(({ name }) =>
    [false, true].map((proof) => {
      const runs = samples.warm.filter((s) => s.module === name && s.proof === proof);
      return {
        ...{ name: `overhead-${name}`, figure: 'overhead', unit: 's' },
        what: `proof ${proof ? 'on' : 'off'}, CPU of the whole command`,
        values: runs.map((s) => s.wall - s.phases.build),
        cpu: of(runs, 'cpu'),
        target: ['≤', OVERHEAD_TARGETS[accelerator][proof ? 'proof' : 'bare']],
      };
    }),
  );
}

function startFigures({ boots, help, clones }) {
  const first = { name: 'first-command', figure: 'first-command', unit: 's' };
  return [
    { ...whole(first.name, first.figure, 'from the start of QEMU', boots), target: ['≤', 1] },
    { ...first, what: 'with its overlay disk made before', values: of(boots, 'whole') },
    {
      ...{ name: 'help', figure: 'help', what: 'dkms2bin --help', unit: 'ms' },
      values: of(help, 'wall').map((s) => s * 1000),
      cpu: of(help, 'cpu'),
      target: ['≤', 150],
    },
    {
      ...{ name: 'clone-memory', figure: 'clone-memory', what: 'private dirty, per idle clone', unit: 'MiB' },
      values: of(clones, 'privateDirtyMiB'),
      target: ['≤', 90],
    },
  ];
}

/** What a start costs more with a layer than without it; and runs, whole. */
function confinementFigures({ starts, confined }) {
  const [off, on] = [false, true].map((side) => confined.filter((s) => s.confined === side));
  return [
    ...[...new Set(of(starts, 'name'))].map((name) => {
      const [without, with_] = [false, true].map((side) =>
        starts.filter((s) => s.name === name && s.confined === side),
      );
      return {
        ...{ name, figure: 'confinement', what: 'a start more', unit: 'ms' },
        values: with_.map((s, at) => (s.wall - without[at].wall) * 1000),
        cpuText: `${Math.round(spread(with_.map((s, at) => (s.cpu - without[at].cpu) * 1000)).median)} ms`,
      };
    }),
    {
      ...{ name: 'confined-run', figure: 'confined-run', what: 'confined ÷ not, whole', unit: '×' },
      values: on.map((s, at) => s.wall / off[at].wall),
      ...(on.length > 0 && { cpuText: `${show(spread(on.map((s, at) => s.cpu / off[at].cpu)).median)} ×` }),
    },
  ];
}

const toolMemory = ({ warm }) => [
  {
    ...{ name: 'tool-memory', figure: 'tool-memory', what: 'peak RSS of node', unit: 'MiB' },
    values: of(warm, 'peakMiB'),
    target: ['≤', 150],
  },
];

function matrixFigures(samples) {
  const base = { name: 'matrix', figure: 'matrix' };
  const each = [...new Set(of(samples, 'how'))].flatMap((how) => {
    const runs = samples.filter((s) => s.how === how);
    return [
      {
        ...{ ...base, what: `${how}, wall ÷ (building ÷ VMs)`, unit: '×', values: of(runs, 'ratio') },
        target: ['≤', 1.2],
      },
      whole(base.name, base.figure, `${how}, ${runs[0].cells} cells, whole`, runs),
      { ...base, what: `${how}, the guests' dkms build in all`, unit: 's', values: of(runs, 'building') },
    ];
  });
  const [local, workers] = ['local', 'workers'].map((how) => samples.find((s) => s.how === how));
  if (!local || !workers) return each;
  const same = local.verdicts.filter((verdict) => workers.verdicts.includes(verdict)).length;
  return [
    ...each,
    {
      ...{ ...base, what: 'verdicts by workers, like the local ones', unit: '', values: [same] },
      target: ['=', local.verdicts.length],
    },
  ];
}

function sameBytes({ bytes: [cold], warm }) {
  if (!cold) return [];
  const clones = warm.filter((s) => s.module === cold.module);
  const same = clones.filter((s) => s.bytes === cold.bytes).length;
  const what = `of ${clones.length} clones, like the cold boot`;
  return [
    {
      ...{ name: 'same-bytes', figure: 'same-bytes', what, unit: '', values: [same] },
      target: ['=', clones.length],
    },
  ];
}

/** `missing` are figures without values, and why. */
export function tableOf(figures, missing) {
  const rows = [['FIGURE', 'WHAT', 'MEDIAN', 'MIN', 'MAX', 'CPU', 'TARGET', '']];
  for (const f of figures) {
    rows.push([
      ...[f.name, f.what, ...[f.median, f.min, f.max].map((value) => valueText(value, f.unit))],
      cpuText(f),
      f.target ? `${f.target[0]} ${f.target[1]}${f.unit ? ` ${f.unit}` : ''}` : '-',
      metText(f.met),
    ]);
  }
  return [...columns(rows), ...missing.map(({ name, why }) => `${name}: ${why}`)].join('\n');
}

function valueText(value, unit) {
  if (unit === '') return String(value);
  return unit === 'ms' ? `${Math.round(value)} ms` : `${show(value)} ${unit}`;
}

function cpuText({ cpu, cpuText: text }) {
  if (text !== undefined) return text;
  return cpu ? `${show(spread(cpu).median)} s` : '-';
}

function metText(met) {
  if (met === null) return '';
  return met ? 'met' : 'NOT MET';
}
