// What the benchmark can be asked for, and what it measures with.
import { availableParallelism } from 'node:os';
import { join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';

export const ROOT = fileURLToPath(new URL('../..', import.meta.url));
export const MAIN = join(ROOT, 'dist', 'main.js');
export const DISTRO = 'debian-12';
/**
 * `host` and `native` are the goals: the guest's own build is at least so many times what it is with the host's compiler, and
 * that at most so many times the native one. `long` ones take half an hour and more in a guest: only when they are named.
 */
export const MODULES = [
  { name: 'acpi-call', source: 'acpi-call-dkms', host: 2.2, native: 4 },
  { name: 'tiny', source: join(ROOT, 'test', 'fixtures', 'tiny'), host: 1.7, native: 5 },
  { name: 'v4l2loopback', source: 'v4l2loopback-dkms', host: 3, native: 3.5 },
  { name: 'jool', source: 'jool-dkms', host: 6, native: 3, long: true },
  // Hours, where the guest compiles it.
  { name: 'lttng', source: 'lttng-modules-dkms', host: null, native: 2.5, long: true },
];
/** The one that is built by hand. */
export const [BY_HAND] = MODULES;
/** Shape of every VM, also of the one by hand. */
export const CPUS = Math.min(4, availableParallelism());
export const MEMORY_MIB = 2048;
export const JOBS = Math.min(CPUS, MEMORY_MIB / 1024);
/** Its date in every file that kbuild stamps, as the tool has it. */
export const EPOCH = process.env.SOURCE_DATE_EPOCH ?? '1577836800';
export const HELP_RUNS = 10;
export const CLONE_RUNS = 5;
export const IDLE_CLONES = 3;
/** Of each program of `confinement`, on each side, in tens. */
export const STARTS = 5;
/** Of the matrix: small packages that build for every plain kernel of the distro. */
export const MATRIX = [
  ...['acpi-call-dkms', 'bbswitch-dkms', 'dm-writeboost-dkms'],
  ...['lime-forensics-dkms', 'openvpn-dco-dkms', 'v4l2loopback-dkms'],
];
/** Cells of the matrix that have a VM at the same time. */
export const SIDE_BY_SIDE = availableParallelism();

/** What --only takes; `slow` is left out by --quick. */
const FIGURES = {
  'second-module': { slow: true, about: 'by hand ÷ dkms2bin, both whole: kernel known, module not' },
  'new-kernel': { slow: true, about: 'by hand ÷ dkms2bin: image known, kernel not' },
  cold: { slow: true, about: 'by hand ÷ dkms2bin: empty cache, image bootstrap included' },
  roads: {
    slow: true,
    about:
      'cold with an official image ÷ cold with a bootstrapped one without its bootstrap; needs --official',
  },
  native: { about: "the guest's `dkms build` ÷ the same one in a chroot on this host" },
  compile: {
    about: "the guest's `dkms build`, --compile guest ÷ --compile host, and whether the .ko are the same",
  },
  overhead: { about: "wall of the whole warm command minus the guest's own `dkms build`" },
  'first-command': { about: 'warm: from the start of QEMU to the answer to the first command' },
  'clone-memory': { about: 'private dirty memory of each of several idle clones' },
  'tool-memory': { about: 'peak RSS of the tool itself (node)' },
  help: { about: 'dkms2bin --help' },
  confinement: { about: 'starts of programs with and without each layer of confinement, no VM' },
  'confined-run': { slow: true, about: 'warm run, whole: QEMU in namespaces of its own ÷ without' },
  matrix: {
    slow: true,
    about: "wall of a matrix ÷ (sum of the guests' own `dkms build` ÷ VMs side by side)",
  },
  'same-bytes': { slow: true, about: 'the .ko files of two warm clones and of a cold boot are the same' },
};

export const USAGE = `usage: npm run bench -- [options]

Measures dkms2bin on this host and prints a table: ratios first, then seconds, memory and the comparison of bytes.
Each figure comes with its least, middle and greatest value, with CPU seconds where there are any, and with its
target. What is compared is run in turns, A B A B.

  --quick              one round, and without the figures that take minutes
  --only NAME[,NAME]   only these figures
  --rounds N           how often (default 2); help runs ${HELP_RUNS} times, first-command ${CLONE_RUNS} times in each round
  --modules NAME[,NAME]
                       of native, compile and overhead: ${MODULES.map(({ name }) => name).join(', ')} (default: all but
                       the long ones, ${MODULES.filter(({ long }) => long)
                         .map(({ name }) => name)
                         .join(' and ')}; with --quick tiny)
  --matrix MxK         modules and kernels of the matrix (default ${MATRIX.length}x3)
  --image FILE         a qcow2 cloud image of ${DISTRO} for both sides (default: the one that dkms2bin bootstraps)
  --official FOLDER    an official image and its SHA512SUMS, for roads: what test/rig/official/make-debian.sh makes
  --json FILE          write all samples and figures as JSON

Figures:
${Object.entries(FIGURES)
  .map(([name, { about, slow }]) => `  ${name.padEnd(15)}${about}${slow ? ' (not with --quick)' : ''}\n`)
  .join('')}
How it is measured
  Kernel     the newest release of ${DISTRO} that \`dkms2bin kernels\` lists, of the plain flavour.
  Modules    packages of the distro (${BY_HAND.source} where there is one module alone), and tiny, test/fixtures/tiny: one source
             file of 20 lines.
  VMs        ${CPUS} processors and ${MEMORY_MIB} MiB, by hand too; the accelerator is the one that dkms2bin finds faster.
  Warm       the user's own cache (DKMS2BIN_CACHE), made ready with \`dkms2bin images warm\` first; what that takes is
             not measured. Before second-module the downloaded package of the module is removed from it, so that it is
             downloaded anew. new-kernel and cold have a cache of their own beside it, which is removed at the end.
  By hand    scripts/by-hand.sh: seed ISO, overlay on the cloud image, QEMU, ssh, apt, reboot into the kernel, dkms,
             dpkg-deb, scp. The image is given. dkms2bin installs and loads what it built in a second VM, and that
             counts; the recipe by hand proves nothing.
  CPU        user + system seconds of the command, of its QEMU and of every other descendant: what the kernel adds up
             for the parent when a child ends (cutime and cstime of /proc/self/stat). QEMU is a child of the tool,
             which waits for it, so it is in there, detached or not. For first-command: those of QEMU alone, until then.
  RSS        what the kernel keeps as the maximum for the node process alone (getrusage), asked for at its end.
  Clones     Private_Dirty of /proc/PID/smaps_rollup, five seconds after the clone's first command.
  native     as an ordinary user, in a user namespace, on a tmpfs: the bootstrapped image's root folder, the kernel's
             headers, the same compiler, dkms, variables and number of jobs. It runs the modules' build on this host,
             outside of any VM. It says whether the .ko has the same bytes as the guest's.
  matrix     ${MATRIX.length} packages of the distro for its 3 newest plain kernels, with proof, ${SIDE_BY_SIDE} VMs side by side; layers
             and snapshots are made before and not measured. The command is \`dkms2bin matrix\`, whole. Then the
             same through a redis-server and ${SIDE_BY_SIDE} \`dkms2bin worker --jobs 1\`; CPU is without the workers'.
  roads      each road with an empty cache of its own, and then again with what that left there, in turns. The image comes
             from a server on this host, in the layout of the distro's; packages come from the same mirror on both.
  same-bytes needs DKMS2BIN_NO_SNAPSHOT=1, which makes the tool boot its VMs cold.

Run it on an idle host: the load average at its start and end is printed. With everything, expect an hour and a half
without KVM. Exit codes: 0 all was measured, met or not · 1 something could not be measured, or bytes differ ·
2 usage · 130 interrupted.
`;

/** The command line's options. Throws an error with what is wrong about them. */
export function readArgs() {
  const { values } = parseArgs({
    options: {
      help: { type: 'boolean', short: 'h' },
      quick: { type: 'boolean' },
      only: { type: 'string', multiple: true },
      modules: { type: 'string', multiple: true },
      rounds: { type: 'string' },
      matrix: { type: 'string' },
      image: { type: 'string' },
      official: { type: 'string' },
      json: { type: 'string' },
    },
  });
  const { help = false, quick = false, image, official, json } = values;
  // Nobody has the image by chance.
  const asked = askedFigures(values.only ?? []).filter(
    (name) => name !== 'roads' || official !== undefined || values.only !== undefined,
  );
  if (quick && values.rounds !== undefined) throw new Error('--quick has one round: leave --rounds out');
  return {
    help,
    quick,
    rounds: quick ? 1 : roundsOf(values.rounds),
    matrix: matrixOf(values.matrix),
    image: image === undefined ? 'bootstrap' : resolve(image),
    official: official === undefined ? null : resolve(official),
    json: json === undefined ? null : resolve(json),
    modules: modulesOf(values.modules, quick),
    asked,
    wanted: new Set(asked.filter((name) => !(quick && FIGURES[name].slow))),
  };
}

/** `lists` are of names with commas between them; none means all figures. */
function askedFigures(lists) {
  const only = lists.flatMap((list) => list.split(','));
  const stray = only.find((name) => !Object.hasOwn(FIGURES, name));
  if (stray !== undefined) throw new Error(`--only ${stray}: not one of ${Object.keys(FIGURES).join(', ')}`);
  return Object.keys(FIGURES).filter((name) => only.length === 0 || only.includes(name));
}

function modulesOf(lists, quick) {
  if (lists === undefined) return MODULES.filter(({ name, long }) => (quick ? name === 'tiny' : !long));
  const names = lists.flatMap((list) => list.split(','));
  const stray = names.find((name) => !MODULES.some((module) => module.name === name));
  if (stray !== undefined)
    throw new Error(`--modules ${stray}: not one of ${MODULES.map(({ name }) => name).join(', ')}`);
  return MODULES.filter(({ name }) => names.includes(name));
}

function roundsOf(text = '2') {
  if (!/^[1-9]\d?$/.test(text)) throw new Error(`--rounds ${text}: not a number from 1 to 99`);
  return Number(text);
}

function matrixOf(text = `${MATRIX.length}x3`) {
  const [, modules, kernels] = /^([1-9])x([1-9])$/.exec(text) ?? [];
  if (!modules || Number(modules) > MATRIX.length)
    throw new Error(`--matrix ${text}: not like ${MATRIX.length}x3, of at most ${MATRIX.length} modules`);
  return { modules: Number(modules), kernels: Number(kernels) };
}
