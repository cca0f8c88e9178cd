// The benchmark: npm run bench. `--help` says what is measured and how.
import { spawn, execFile } from 'node:child_process';
import { createHash } from 'node:crypto';
import { once } from 'node:events';
import { chmod, copyFile, cp, mkdir, mkdtemp, readFile, readdir, rm, writeFile } from 'node:fs/promises';
import { availableParallelism, cpus as processors, loadavg, release as hostRelease, tmpdir } from 'node:os';
import { basename, dirname, join, resolve } from 'node:path';
import { createInterface } from 'node:readline';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { parseArgs, promisify } from 'node:util';
import { columns, measure, processSeconds, show, spread } from './bench-measure.mjs';

const ROOT = fileURLToPath(new URL('..', import.meta.url));
const MAIN = join(ROOT, 'dist', 'main.js');
const DISTRO = 'debian-12';
const MODULES = [
  { name: 'acpi-call', source: 'acpi-call-dkms' },
  { name: 'tiny', source: join(ROOT, 'test', 'fixtures', 'tiny') },
];
/** The one that is built by hand. */
const [BY_HAND] = MODULES;
/** Shape of every VM, also of the one by hand. */
const CPUS = Math.min(4, availableParallelism());
const MEMORY_MIB = 2048;
const JOBS = Math.min(CPUS, MEMORY_MIB / 1024);
/** Its date in every file that kbuild stamps, as the tool has it. */
const EPOCH = process.env.SOURCE_DATE_EPOCH ?? '1577836800';
const HELP_RUNS = 10;
const CLONE_RUNS = 5;
const IDLE_CLONES = 3;
/** Of the matrix: small packages that build for every plain kernel of the distro. */
const MATRIX = [
  ...['acpi-call-dkms', 'bbswitch-dkms', 'dm-writeboost-dkms'],
  ...['lime-forensics-dkms', 'openvpn-dco-dkms', 'v4l2loopback-dkms'],
];
/** Cells of the matrix that have a VM at the same time. */
const SIDE_BY_SIDE = availableParallelism();

/** What --only takes; `slow` is left out by --quick. */
const FIGURES = {
  'second-module': { slow: true, about: 'by hand ÷ dkms2bin, both whole: kernel known, module not' },
  'new-kernel': { slow: true, about: 'by hand ÷ dkms2bin: image known, kernel not' },
  cold: { slow: true, about: 'by hand ÷ dkms2bin: empty cache, image bootstrap included' },
  native: { about: "the guest's `dkms build` ÷ the same one in a chroot on this host" },
  overhead: { about: "wall of the whole warm command minus the guest's own `dkms build`" },
  'first-command': { about: 'warm: from the start of QEMU to the answer to the first command' },
  'clone-memory': { about: 'private dirty memory of each of several idle clones' },
  'tool-memory': { about: 'peak RSS of the tool itself (node)' },
  help: { about: 'dkms2bin --help' },
  matrix: {
    slow: true,
    about: "wall of a matrix ÷ (sum of the guests' own `dkms build` ÷ VMs side by side)",
  },
  'same-bytes': { slow: true, about: 'the .ko files of two warm clones and of a cold boot are the same' },
};

const USAGE = `usage: npm run bench -- [options]

Measures dkms2bin on this host and prints a table: ratios first, then seconds, memory and the comparison of bytes.
Each figure comes with its least, middle and greatest value, with CPU seconds where there are any, and with its
target. What is compared is run in turns, A B A B.

  --quick              one round, and without the figures that take minutes
  --only NAME[,NAME]   only these figures
  --rounds N           how often (default 2); help runs ${HELP_RUNS} times, first-command ${CLONE_RUNS} times in each round
  --matrix MxK         modules and kernels of the matrix (default ${MATRIX.length}x3)
  --image FILE         a qcow2 cloud image of ${DISTRO} for both sides (default: the one that dkms2bin bootstraps)
  --json FILE          write all samples and figures as JSON

Figures:
${Object.entries(FIGURES)
  .map(([name, { about, slow }]) => `  ${name.padEnd(15)}${about}${slow ? ' (not with --quick)' : ''}\n`)
  .join('')}
How it is measured
  Kernel     the newest release of ${DISTRO} that \`dkms2bin kernels\` lists, of the plain flavour.
  Modules    ${BY_HAND.source} from the distro, and test/fixtures/tiny: one source file of 20 lines.
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
  same-bytes needs DKMS2BIN_NO_SNAPSHOT=1, which makes the tool boot its VMs cold.

Run it on an idle host: the load average at its start and end is printed. With everything, expect an hour and a half
without KVM. Exit codes: 0 all was measured, met or not · 1 something could not be measured, or bytes differ ·
2 usage · 130 interrupted.
`;

function readArgs() {
  const { values } = parseArgs({
    options: {
      help: { type: 'boolean', short: 'h' },
      quick: { type: 'boolean' },
      only: { type: 'string', multiple: true },
      rounds: { type: 'string' },
      matrix: { type: 'string' },
      image: { type: 'string' },
      json: { type: 'string' },
    },
  });
  const only = (values.only ?? []).flatMap((list) => list.split(','));
  for (const name of only) {
    if (!Object.hasOwn(FIGURES, name))
      throw new Error(`--only ${name}: not one of ${Object.keys(FIGURES).join(', ')}`);
  }
  if (values.rounds !== undefined && !/^[1-9]\d?$/.test(values.rounds))
    throw new Error(`--rounds ${values.rounds}: not a number from 1 to 99`);
  const [, modules, kernels] = /^([1-9])x([1-9])$/.exec(values.matrix ?? `${MATRIX.length}x3`) ?? [];
  if (!modules || Number(modules) > MATRIX.length)
    throw new Error(
      `--matrix ${values.matrix}: not like ${MATRIX.length}x3, of at most ${MATRIX.length} modules`,
    );
  if (values.quick && values.rounds !== undefined)
    throw new Error('--quick has one round: leave --rounds out');
  const asked = Object.keys(FIGURES).filter((name) => only.length === 0 || only.includes(name));
  return {
    help: values.help ?? false,
    quick: values.quick ?? false,
    rounds: values.quick ? 1 : Number(values.rounds ?? 2),
    matrix: { modules: Number(modules), kernels: Number(kernels) },
    image: values.image === undefined ? 'bootstrap' : resolve(values.image),
    json: values.json === undefined ? null : resolve(values.json),
    asked,
    wanted: new Set(asked.filter((name) => !(values.quick && FIGURES[name].slow))),
  };
}

const say = (text) => process.stderr.write(`bench: ${text}\n`);

/** The tool's own modules; the memory snapshot is reached through them, not through its command line. */
const dist = (path) => import(new URL(`../dist/${path}`, import.meta.url).href);

class Bench {
  /** What was measured, by kind: the figures are computed from it. */
  samples = {
    help: [],
    warm: [],
    native: [],
    hand: [],
    second: [],
    new: [],
    cold: [],
    boots: [],
    clones: [],
    bytes: [],
    matrix: [],
  };
  /** Why a figure could not be measured. */
  failures = {};
  kernel = null;
  accelerator = null;
  #scratch = null;

  constructor(options, signal) {
    this.options = options;
    this.signal = signal;
    this.modules = options.quick ? MODULES.filter((m) => m.name === 'tiny') : MODULES;
  }

  wants(...names) {
    return names.some((name) => this.options.wanted.has(name));
  }

  async run() {
    if (this.wants('help')) await this.attempt(['help'], () => this.help());
    const names = [...this.options.wanted].filter((name) => name !== 'help');
    if (names.length === 0) return;
    await this.attempt(names, async () => {
      this.#scratch = await mkdtemp(join(tmpdir(), 'dkms2bin-bench-'));
      await this.prepare();
      await this.attempt(['first-command', 'clone-memory'], () => this.clones());
      await this.attempt(['native', 'overhead', 'tool-memory', 'same-bytes'], () => this.warm());
      await this.attempt(['same-bytes'], () => this.coldBytes());
      await this.attempt(['second-module', 'new-kernel', 'cold'], () => this.byHand());
      await this.attempt(['matrix'], async () => {
        await this.matrix('local', []);
        await this.throughWorkers();
      });
    });
  }

  async close() {
    if (this.#scratch) await rm(this.#scratch, { recursive: true, force: true });
  }

  /** What goes wrong costs those figures, not the others. */
  async attempt(names, work) {
    const wanted = names.filter((name) => this.wants(name) && !this.failures[name]);
    if (wanted.length === 0) return;
    try {
      await work();
    } catch (error) {
      this.signal.throwIfAborted();
      for (const name of wanted) this.failures[name] = error.message;
      say(`${wanted.join(', ')}: ${error.message}`);
    }
  }

  measure(command, args, more = {}) {
    return measure(command, args, { signal: this.signal, ...more });
  }

  async help() {
    for (let at = 0; at < HELP_RUNS; at += 1) {
      const { code, wall, cpu } = await this.measure(process.execPath, [MAIN, '--help']);
      if (code !== 0) throw new Error(`dkms2bin --help ended with ${code}`);
      this.samples.help.push({ wall, cpu });
    }
  }

  /** Finds the kernel and warms the cache. */
  async prepare() {
    const listed = await this.measure(process.execPath, [MAIN, 'kernels', '--distro', DISTRO, '--json']);
    if (listed.code !== 0) throw new Error(`dkms2bin kernels ended with ${listed.code}:\n${listed.stderr}`);
    const releases = JSON.parse(listed.stdout).kernels.map((k) => k.release);
    // The flavour that has no name, and not of backports, whose releases have a `+`.
    const plain = releases.filter((r) => /^\d+\.\d+\.\d+-\d+-amd64$/.test(r));
    plain.sort((a, b) => a.localeCompare(b, 'en', { numeric: true }));
    this.kernel = plain.at(-1) ?? null;
    this.plainKernels = plain;
    if (!this.kernel) throw new Error(`no plain kernel among those of ${DISTRO}: ${releases.join(' ')}`);
    say(`kernel ${this.kernel}; making the cache warm`);
    await this.makeWarm([this.kernel]);
    const { chooseAccelerator } = await dist('vm/accel.js');
    this.accelerator = await chooseAccelerator('auto', 'x86_64', {
      emit: () => undefined,
      signal: this.signal,
    });
  }

  async makeWarm(kernels) {
    const wanted = kernels.flatMap((kernel) => ['--kernel', kernel]);
    const args = ['images', 'warm', ...wanted, ...this.shape()];
    const { code, wall, stderr } = await this.measure(process.execPath, [MAIN, ...args], {
      onLine: (line) => process.stderr.write(`  ${line}\n`),
    });
    if (code !== 0) throw new Error(`dkms2bin images warm ended with ${code}:\n${stderr.slice(-2000)}`);
    say(`warm after ${show(wall)} s`);
  }

  /** One matrix, whole; `how` names it in the samples, `more` says who builds it. Throws unless every cell has its answer. */
  async matrix(how, more) {
    const { modules, kernels } = this.options.matrix;
    const releases = this.plainKernels.slice(-kernels);
    await this.makeWarm(releases);
    const out = await mkdtemp(join(this.#scratch, 'matrix-'));
    const { code, wall, cpu, stdout, stderr } = await this.measure(
      process.execPath,
      [
        ...[MAIN, 'matrix', '--json', '--out-dir', out, '--jobs', String(SIDE_BY_SIDE), ...this.shape()],
        ...MATRIX.slice(0, modules).flatMap((module) => ['--dkms', module]),
        ...releases.flatMap((release) => ['--kernel', release]),
        ...more,
      ],
      { onLine: (line) => process.stderr.write(`  ${line}\n`) },
    );
    const { cells = [] } = stdout === '' ? {} : JSON.parse(stdout);
    const verdicts = cells.map((c) => `${c.source} ${c.kernel} ${c.outcome}`).sort();
    const unanswered = cells.filter((c) => c.verdict === null || c.verdict === 'error');
    if (cells.length < modules * kernels || unanswered.length > 0)
      throw new Error(
        `${unanswered.length} of ${cells.length} cells have no answer (${code}): ${unanswered[0]?.reason ?? stderr.slice(-2000)}`,
      );
    // Modules of one source share their cell's times.
    const builds = new Map(cells.map((c) => [`${c.source} ${c.kernel}`, c.phases.build ?? 0]));
    const building = [...builds.values()].reduce((sum, each) => sum + each, 0);
    const ratio = wall / (building / SIDE_BY_SIDE);
    this.samples.matrix.push({
      how,
      wall,
      cpu,
      building,
      vms: SIDE_BY_SIDE,
      ratio,
      cells: builds.size,
      verdicts,
      phases: cells.map((c) => ({ source: c.source, kernel: c.kernel, ...c.phases })),
    });
    say(
      `matrix, ${how}: ${builds.size} cells in ${show(wall)} s, the guests built for ${show(building)} s in all, ` +
        `${SIDE_BY_SIDE} VMs side by side: ratio ${show(ratio)}`,
    );
  }

  /** The same matrix by workers with one VM each, as they are started by hand, and a Redis of its own. */
  async throughWorkers() {
    const dir = await mkdtemp(join(this.#scratch, 'workers-'));
    const store = join(dir, 'store');
    const queue = ['--queue', `unix:${join(dir, 'redis.sock')}`, '--store', store];
    const children = [];
    const start = (file, args, env = {}) => {
      const child = spawn(file, args, {
        env: { ...process.env, ...env },
        stdio: ['ignore', 'ignore', 'inherit'],
      });
      children.push({ child, ended: once(child, 'exit').catch((error) => say(`${file}: ${error.message}`)) });
    };
    try {
      start('redis-server', [
        '--port',
        '0',
        '--unixsocket',
        join(dir, 'redis.sock'),
        '--dir',
        dir,
        '--save',
        '',
      ]);
      const shape = ['--cpus', String(CPUS), '--memory', `${MEMORY_MIB}M`, '--distro', DISTRO, '--jobs', '1'];
      for (let at = 1; at <= SIDE_BY_SIDE; at += 1)
        start(process.execPath, [MAIN, 'worker', ...queue, '--name', `worker-${at}`, '--quiet', ...shape], {
          DKMS2BIN_STATE: join(dir, `state-${at}`),
        });
      await this.matrix('workers', [...queue, '--queue-wait', '1m']);
    } finally {
      for (const { child, ended } of children.reverse()) {
        child.kill('SIGTERM');
        await ended;
      }
    }
  }

  shape() {
    const { image } = this.options;
    return ['--distro', DISTRO, '--image', image, '--cpus', String(CPUS), '--memory', `${MEMORY_MIB}M`];
  }

  /** One whole command. Throws unless it built the package. */
  async build(module, { proof, env = {}, onLine }) {
    const out = await mkdtemp(join(this.#scratch, 'out-'));
    const peak = join(out, 'peak');
    const preload = `import { writeFileSync } from 'node:fs';
      process.on('exit', () => writeFileSync(process.env.BENCH_PEAK, String(process.resourceUsage().maxRSS)));`;
    const ended = await this.measure(
      process.execPath,
      [
        ...['--import', `data:text/javascript,${encodeURIComponent(preload)}`, MAIN],
        ...['--dkms', module.source, '--kernel', this.kernel, ...this.shape()],
        ...['--out-dir', out, '--force', '--json', ...(proof ? [] : ['--no-verify'])],
      ],
      { env: { ...env, BENCH_PEAK: peak }, onLine },
    );
    const { wall, cpu, stderr } = ended;
    const cell = ended.stdout === '' ? undefined : JSON.parse(ended.stdout).cells[0];
    if (ended.code !== 0 || cell?.verdict !== 'built')
      throw new Error(`${module.name} was not built (${ended.code}): ${cell?.reason ?? stderr.slice(-2000)}`);
    return {
      module: module.name,
      ...{ proof, wall, cpu, phases: cell.phases },
      peakMiB: Number(await readFile(peak, 'utf8')) / 1024,
      bytes: await digestOfModules(cell.package),
      cold: /Booting cold/.test(stderr),
    };
  }

  async warmBuild(module, proof) {
    const sample = await this.build(module, { proof });
    if (sample.cold) throw new Error('the VM was not a clone of a memory snapshot: see dkms2bin doctor');
    this.samples.warm.push(sample);
    say(
      `${module.name}, warm, proof ${proof ? 'on' : 'off'}: ${show(sample.wall)} s, ` +
        `of them ${show(sample.phases.build)} s dkms build`,
    );
  }

  /** Native and warm builds in turns. */
  async warm() {
    const { rounds } = this.options;
    let native = null;
    if (this.wants('native'))
      await this.attempt(['native'], async () => {
        native = await this.nativeChroot();
      });
    try {
      for (let round = 1; round <= rounds; round += 1) {
        say(`warm, round ${round} of ${rounds}`);
        for (const module of this.modules) {
          if (native) await this.attempt(['native'], () => native.build(module));
          if (this.wants('overhead', 'native') || (this.wants('same-bytes') && module === BY_HAND))
            await this.warmBuild(module, false);
          if (this.wants('overhead') || (this.wants('tool-memory') && module.name === 'tiny'))
            await this.warmBuild(module, true);
        }
      }
    } finally {
      await native?.close();
    }
  }

  /** A chroot to build in, and its end. */
  async nativeChroot() {
    const [{ run }, { baseImage }, request] = await Promise.all([
      dist('lib/exec.js'),
      dist('environment/base-image.js'),
      this.request('bootstrap'),
    ]);
    const base = await baseImage(request.row, request.context);
    const scratch = await mkdtemp(join(this.#scratch, 'native-'));
    const namespace = ['--mount', '--pid', '--fork', '--kill-child'];
    if (process.getuid() !== 0) namespace.push('--user', '--map-root-user', '--map-auto');
    await run('unshare', [...namespace, 'true'], { cancelSignal: this.signal });
    say('native: a chroot with the headers');
    const child = spawn(
      'setpriv',
      [
        ...[
          '--pdeathsig',
          'KILL',
          '--',
          'unshare',
          ...namespace,
          'bash',
          join(ROOT, 'scripts/bench-native.sh'),
        ],
        ...[scratch, base.root, this.kernel, String(JOBS), EPOCH, ...this.modules.map((m) => m.source)],
      ],
      {
        stdio: ['pipe', 'pipe', 'pipe'],
        env: { ...process.env, PATH: `${process.env.PATH}:/usr/sbin:/sbin` },
      },
    );
    const ended = once(child, 'exit');
    let said = '';
    child.stderr.setEncoding('utf8').on('data', (text) => (said = (said + text).slice(-2000)));
    const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]();
    const answer = async () => {
      const { value, done } = await lines.next();
      if (done) throw new Error(`the native build failed:\n${said}`);
      return value.split(' ');
    };
    const close = async () => {
      child.stdin.end();
      await ended;
      await base.entry?.use.release();
    };
    child.stdin.on('error', () => undefined);
    this.signal.addEventListener('abort', () => child.kill('SIGKILL'), { once: true });
    try {
      await answer();
    } catch (error) {
      await close();
      throw error;
    }
    return {
      close,
      build: async (module) => {
        child.stdin.write(`${module.source}\n`);
        const [, , wall, user, system, name] = await answer();
        const bytes = sha256([await readFile(join(scratch, 'built', `${name}.ko`))]);
        this.samples.native.push({
          module: module.name,
          ...{ wall: Number(wall), cpu: Number(user) + Number(system), bytes },
        });
        say(`${module.name}, native: ${wall} s`);
      },
    };
  }

  /** What the tool's own modules take, for these VMs. */
  async request(image = this.options.image) {
    const [{ requestOf }, { plan }, { loadCatalogue, findRow }] = await Promise.all([
      dist('cli/request.js'),
      dist('engine/plan/plan.js'),
      dist('distro/catalogue.js'),
    ]);
    const emit = (event) => {
      if (event.type === 'note' && event.level === 'warn') say(event.message);
    };
    const { signal } = this;
    const options = { dkms: [BY_HAND.source], kernel: [this.kernel], distro: DISTRO, image };
    const request = requestOf({ ...options, cpus: CPUS, memory: MEMORY_MIB }, process.cwd());
    const [{ target }] = (await plan(request, { emit, signal })).cells;
    const context = { image, arch: request.arch, offline: false, cwd: request.cwd, emit, signal };
    return { row: findRow(await loadCatalogue(), DISTRO), target, context };
  }

  /** Clones of the warm snapshot, without the rest of a build. */
  async clones() {
    const [{ baseImage }, { kernelLayer }, { kernelEnvironmentOf }, { bootClone }, request] =
      await Promise.all([
        dist('environment/base-image.js'),
        dist('environment/kernel-layer.js'),
        dist('environment/snapshot.js'),
        dist('environment/boot.js'),
        this.request(),
      ]);
    const { emit } = request.context;
    const { name: accel, cpu } = this.accelerator;
    const machine = { accel, cpu, cpus: CPUS, memoryMiB: MEMORY_MIB, emit, signal: this.signal };
    const base = await baseImage(request.row, request.context);
    const layer = await kernelLayer(
      { base, target: request.target, variant: 'build', kernelPackages: [] },
      machine,
    );
    const { snapshot } = await kernelEnvironmentOf(layer, machine);
    const boot = async () => {
      const dir = await mkdtemp(join(this.#scratch, 'clone-'));
      const called = performance.now();
      const booted = await bootClone(snapshot, false, dir, machine);
      const answer = await booted.guest.text('uname -r');
      const whole = (performance.now() - called) / 1000;
      const qemu = await processSeconds(booted.vm.pid);
      if (answer.trim() !== this.kernel) throw new Error(`the clone answered ${answer}`);
      return { booted, sample: { ...qemu, whole } };
    };
    try {
      if (!snapshot) throw new Error('memory snapshots do not work on this host: see dkms2bin doctor');
      if (this.wants('first-command'))
        for (let at = 0; at < CLONE_RUNS * this.options.rounds; at += 1) {
          const { booted, sample } = await boot();
          await booted[Symbol.asyncDispose]();
          this.samples.boots.push(sample);
        }
      const idle = [];
      try {
        for (let at = 0; this.wants('clone-memory') && at < IDLE_CLONES; at += 1)
          idle.push((await boot()).booted);
        if (idle.length > 0) await sleep(5000, undefined, { signal: this.signal });
        for (const { vm } of idle) {
          const rollup = await readFile(`/proc/${vm.pid}/smaps_rollup`, 'utf8');
          const kib = (field) => Number(new RegExp(`^${field}:\\s+(\\d+) kB`, 'm').exec(rollup)[1]);
          this.samples.clones.push({
            privateDirtyMiB: kib('Private_Dirty') / 1024,
            rssMiB: kib('Rss') / 1024,
          });
        }
      } finally {
        for (const booted of idle) await booted[Symbol.asyncDispose]();
      }
    } finally {
      for (const entry of [snapshot?.entry, layer.entry, base.entry]) await entry?.use.release();
    }
  }

  /** The same module from a cold boot, and from clones until there are two. */
  async coldBytes() {
    const clones = this.samples.warm.filter((s) => s.module === BY_HAND.name);
    for (let at = clones.length; at < 2; at += 1) await this.warmBuild(BY_HAND, false);
    say(`${BY_HAND.name}, cold boot`);
    const cold = await this.build(BY_HAND, { proof: false, env: { DKMS2BIN_NO_SNAPSHOT: '1' } });
    if (!cold.cold) throw new Error('DKMS2BIN_NO_SNAPSHOT=1 did not make the VM boot cold');
    this.samples.bytes.push(cold);
  }

  /** By hand and by the tool in turns. */
  async byHand() {
    const { rounds } = this.options;
    const [{ cacheDir }, { baseImage }, request] = await Promise.all([
      dist('lib/paths.js'),
      dist('environment/base-image.js'),
      this.request(),
    ]);
    const base = await baseImage(request.row, request.context);
    const caches = [];
    const progress = { onLine: (line) => process.stderr.write(`  ${line}\n`) };
    /** An empty cache, on the disk where the user's own is. */
    const newCache = async () => {
      const dir = await mkdtemp(join(dirname(cacheDir()), 'dkms2bin-bench-'));
      caches.push(dir);
      // As the tool makes its own: in a bootstrap another user, the root of a namespace, works below it.
      await chmod(dir, 0o755);
      return dir;
    };
    const dropCache = () => rm(caches.at(-1), { recursive: true, force: true });
    const tool = async (kind, env) => {
      say(`${kind}:`);
      const sample = await this.build(BY_HAND, { proof: true, env, ...progress });
      this.samples[kind].push(sample);
      say(`${kind}: ${show(sample.wall)} s`);
    };
    try {
      for (let round = 1; round <= rounds; round += 1) {
        if (['second-module', 'new-kernel', 'cold'].every((name) => this.failures[name] ?? !this.wants(name)))
          break;
        say(`by hand, round ${round} of ${rounds}`);
        const hand = await this.measure(
          join(ROOT, 'scripts/by-hand.sh'),
          [BY_HAND.source, this.kernel, base.disk, await mkdtemp(join(this.#scratch, 'hand-'))],
          {
            env: { ACCEL: this.accelerator.name, CPUS: String(CPUS), MEMORY: String(MEMORY_MIB) },
            onLine: (line) => line.startsWith('by-hand:') && progress.onLine(line),
          },
        );
        if (hand.code !== 0)
          throw new Error(`by-hand.sh ended with ${hand.code}:\n${hand.stderr.slice(-2000)}`);
        const { wall, cpu } = hand;
        this.samples.hand.push({ wall, cpu, bytes: await digestOfModules(hand.stdout.trim()) });
        say(`by hand: ${show(wall)} s`);
        await this.attempt(['cold'], async () => {
          await tool('cold', { DKMS2BIN_CACHE: await newCache() }).finally(dropCache);
        });
        await this.attempt(['new-kernel'], async () => {
          const cache = await newCache();
          if (base.entry) {
            const to = join(cache, 'images', basename(base.entry.dir));
            await mkdir(dirname(to), { recursive: true });
            // Its times are the last that the tool looks at, the copy is as good as the original.
            await cp(base.entry.dir, to, { recursive: true, preserveTimestamps: true });
          }
          await copyFile(join(cacheDir(), 'accelerator.json'), join(cache, 'accelerator.json')).catch(
            () => undefined,
          );
          await tool('new', { DKMS2BIN_CACHE: cache }).finally(dropCache);
        });
        await this.attempt(['second-module'], async () => {
          await forgetPackage(join(cacheDir(), 'packages'), BY_HAND.source);
          await tool('second', {});
        });
      }
    } finally {
      for (const dir of caches) await rm(dir, { recursive: true, force: true });
      await base.entry?.use.release();
    }
  }
}

/** Removes the downloaded package from the cache. */
async function forgetPackage(dir, name) {
  for (const found of await readdir(dir, { recursive: true }).catch(() => [])) {
    if (basename(found).startsWith(`${name}_`)) await rm(join(dir, found), { force: true });
  }
}

function sha256(chunks) {
  const hash = createHash('sha256');
  for (const chunk of chunks) hash.update(chunk);
  return hash.digest('hex');
}

/** SHA-256 of the modules in a .deb. */
async function digestOfModules(file) {
  const { stdout } = await promisify(execFile)(
    'bash',
    ['-c', 'set -o pipefail; dpkg-deb --fsys-tarfile "$1" | tar -xO --wildcards "*.ko"', 'bash', file],
    { encoding: 'buffer', maxBuffer: 2 ** 29 },
  );
  return sha256([stdout]);
}

/** The figures, in the order of the table: `values` and `cpu` are of the single runs, `target` is [≤ or ≥, value]. */
function figuresOf({ samples, options, accelerator }) {
  const kvm = accelerator?.name === 'kvm';
  const figures = [];
  const add = (name, figure, what, unit, values, more = {}) => {
    if (values.length > 0) figures.push({ name, figure, what, unit, values, ...more });
  };
  const of = (list, key) => list.map((s) => s[key]);
  const ratios = (over, under, key) =>
    under.map((s, at) => over[Math.min(at, over.length - 1)][key] / s[key]).filter(Number.isFinite);
  const handTargets = { 'second-module': ['second', 4], 'new-kernel': ['new', 2], cold: ['cold', 1] };
  for (const [name, [kind, least]] of Object.entries(handTargets)) {
    const tool = samples[kind];
    const cpuRatios = ratios(samples.hand, tool, 'cpu');
    add(name, name, 'by hand ÷ dkms2bin', '×', ratios(samples.hand, tool, 'wall'), {
      target: ['≥', least],
      ...(cpuRatios.length > 0 ? { cpuText: `${show(spread(cpuRatios).median)} ×`, cpuRatios } : {}),
    });
  }
  for (const { name } of MODULES) {
    const native = samples.native.filter((s) => s.module === name);
    const guest = samples.warm.filter((s) => s.module === name && !s.proof);
    const pairs = native.slice(0, guest.length).map((s, at) => guest[at].phases.build / s.wall);
    const same = native.length > 0 && guest.length > 0 && native.every((s) => s.bytes === guest[0].bytes);
    if (options.wanted.has('native'))
      add(
        `native-${name}`,
        'native',
        `guest's dkms build ÷ native, ${same ? 'same' : 'other'} bytes`,
        '×',
        pairs,
      );
  }

  add('by-hand', 'second-module', 'the recipe, whole', 's', of(samples.hand, 'wall'), {
    cpu: of(samples.hand, 'cpu'),
  });
  for (const [name, [kind]] of Object.entries(handTargets))
    add(name, name, 'dkms2bin, whole, with proof', 's', of(samples[kind], 'wall'), {
      cpu: of(samples[kind], 'cpu'),
    });
  for (const { name } of MODULES) {
    const native = samples.native.filter((s) => s.module === name);
    const guest = samples.warm.filter((s) => s.module === name);
    add(`native-${name}`, 'native', 'dkms build in the chroot', 's', of(native, 'wall'), {
      cpu: of(native, 'cpu'),
    });
    if (options.wanted.has('native') || options.wanted.has('overhead'))
      add(`guest-${name}`, 'native', 'dkms build in the guest', 's', of(of(guest, 'phases'), 'build'));
  }
  if (options.wanted.has('overhead'))
    for (const { name } of MODULES)
      for (const proof of [false, true]) {
        const runs = samples.warm.filter((s) => s.module === name && s.proof === proof);
        const most = kvm ? (proof ? 3 : 1) : proof ? 10 : 4;
        const values = runs.map((s) => s.wall - s.phases.build);
        add(
          `overhead-${name}`,
          'overhead',
          `proof ${proof ? 'on' : 'off'}, CPU of the whole command`,
          's',
          values,
          {
            cpu: of(runs, 'cpu'),
            target: ['≤', most],
          },
        );
      }
  add('first-command', 'first-command', 'from the start of QEMU', 's', of(samples.boots, 'wall'), {
    cpu: of(samples.boots, 'cpu'),
    target: ['≤', 1],
  });
  add('first-command', 'first-command', 'with its overlay disk made before', 's', of(samples.boots, 'whole'));
  add(
    'help',
    'help',
    'dkms2bin --help',
    'ms',
    of(samples.help, 'wall').map((s) => s * 1000),
    {
      cpu: of(samples.help, 'cpu'),
      target: ['≤', 150],
    },
  );
  add(
    'clone-memory',
    'clone-memory',
    'private dirty, per idle clone',
    'MiB',
    of(samples.clones, 'privateDirtyMiB'),
    {
      target: ['≤', 90],
    },
  );
  if (options.wanted.has('tool-memory'))
    add('tool-memory', 'tool-memory', 'peak RSS of node', 'MiB', of(samples.warm, 'peakMiB'), {
      target: ['≤', 150],
    });
  for (const how of new Set(of(samples.matrix, 'how'))) {
    const runs = samples.matrix.filter((s) => s.how === how);
    add('matrix', 'matrix', `${how}, wall ÷ (building ÷ VMs)`, '×', of(runs, 'ratio'), {
      target: ['≤', 1.2],
    });
    add('matrix', 'matrix', `${how}, ${runs[0].cells} cells, whole`, 's', of(runs, 'wall'), {
      cpu: of(runs, 'cpu'),
    });
    add('matrix', 'matrix', `${how}, the guests' dkms build in all`, 's', of(runs, 'building'));
  }
  const [local, workers] = ['local', 'workers'].map((how) => samples.matrix.find((s) => s.how === how));
  if (local && workers) {
    const same = local.verdicts.filter((verdict) => workers.verdicts.includes(verdict)).length;
    add('matrix', 'matrix', 'verdicts by workers, like the local ones', '', [same], {
      target: ['=', local.verdicts.length],
    });
  }
  const cold = samples.bytes[0];
  if (cold) {
    const clones = samples.warm.filter((s) => s.module === cold.module);
    const same = clones.filter((s) => s.bytes === cold.bytes).length;
    add('same-bytes', 'same-bytes', `of ${clones.length} clones, like the cold boot`, '', [same], {
      target: ['=', clones.length],
    });
  }
  // A spread's middle is what is held against the target.
  return figures.map((f) => {
    const { min, median, max } = spread(f.values);
    const [how, value] = f.target ?? [];
    const met =
      how === undefined
        ? null
        : how === '≤'
          ? median <= value
          : how === '≥'
            ? median >= value
            : median === value;
    return { ...f, min, median, max, met };
  });
}

function tableOf(figures, missing) {
  const rows = [['FIGURE', 'WHAT', 'MEDIAN', 'MIN', 'MAX', 'CPU', 'TARGET', '']];
  for (const f of figures) {
    const value = (n) =>
      f.unit === '' ? String(n) : f.unit === 'ms' ? `${Math.round(n)} ms` : `${show(n)} ${f.unit}`;
    rows.push([
      ...[f.name, f.what, value(f.median), value(f.min), value(f.max)],
      f.cpuText ?? (f.cpu ? `${show(spread(f.cpu).median)} s` : '-'),
      f.target ? `${f.target[0]} ${f.target[1]}${f.unit ? ` ${f.unit}` : ''}` : '-',
      f.met === null ? '' : f.met ? 'met' : 'NOT MET',
    ]);
  }
  return [...columns(rows), ...missing.map(({ name, why }) => `${name}: ${why}`)].join('\n');
}

async function main() {
  let options;
  try {
    options = readArgs();
  } catch (error) {
    process.stderr.write(`bench: ${error.message}\nnpm run bench -- --help explains.\n`);
    return 2;
  }
  if (options.help) {
    process.stdout.write(USAGE);
    return 0;
  }
  const abort = new AbortController();
  for (const name of ['SIGINT', 'SIGTERM', 'SIGHUP']) process.on(name, () => abort.abort());
  const load = { start: loadavg()[0] };
  if (load.start > availableParallelism() / 4)
    say(`this host is busy (load average ${load.start.toFixed(1)}): the figures will be worse than they are`);
  const bench = new Bench(options, abort.signal);
  try {
    await bench.run();
  } catch (error) {
    if (!abort.signal.aborted) throw error;
  } finally {
    await bench.close();
  }
  load.end = loadavg()[0];

  const { samples, failures, accelerator, kernel } = bench;
  const figures = figuresOf(bench);
  const missing = options.asked.flatMap((name) => {
    if (failures[name]) return [{ name, why: `failed: ${failures[name].split('\n')[0]}` }];
    if (!options.wanted.has(name)) return [{ name, why: 'skipped (--quick): it takes minutes' }];
    return abort.signal.aborted && !figures.some((f) => f.figure === name)
      ? [{ name, why: 'interrupted' }]
      : [];
  });
  if (options.quick && options.wanted.has('overhead'))
    missing.push({ name: `overhead-${BY_HAND.name}`, why: 'skipped (--quick): it takes minutes' });
  const host = {
    processor: processors()[0]?.model ?? '?',
    processors: availableParallelism(),
    kernel: hostRelease(),
    node: process.version,
    qemu: await promisify(execFile)('qemu-system-x86_64', ['--version']).then(
      ({ stdout }) => stdout.split('\n')[0],
      () => null,
    ),
    accelerator: accelerator?.name ?? null,
  };
  process.stdout.write(
    [
      `${host.processors} × ${host.processor}, ${host.qemu ?? 'no QEMU'}, ${host.accelerator ?? 'no VM was started'}`,
      `kernel ${kernel ?? '-'}, ${options.rounds} round(s), load average ${load.start.toFixed(2)} before, ${load.end.toFixed(2)} after`,
      '',
      tableOf(figures, missing),
      '',
    ].join('\n'),
  );
  if (options.json) {
    const { rounds, image } = options;
    const document = { schemaVersion: 1, date: new Date().toISOString(), host, kernel, rounds, image, load };
    await writeFile(options.json, JSON.stringify({ ...document, figures, missing, samples }, null, 2) + '\n');
  }
  if (abort.signal.aborted) return 130;
  return Object.keys(failures).length > 0 || figures.some((f) => f.name === 'same-bytes' && !f.met) ? 1 : 0;
}

process.exitCode = await main();
