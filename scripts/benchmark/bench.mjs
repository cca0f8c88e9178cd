// The benchmark's order of events, and what several of its figures need: the kernel, a warm cache, one whole build.
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { byHand } from './by-hand.mjs';
import { clones } from './clones.mjs';
import { runs, starts } from './confinement.mjs';
import { digestOfModules } from './digest.mjs';
import { matrix, throughWorkers } from './matrix.mjs';
import { measure, say, show } from './measure.mjs';
import { nativeChroot } from './native.mjs';
import { BY_HAND, CPUS, DISTRO, HELP_RUNS, MAIN, MEMORY_MIB } from './options.mjs';
import { roads } from './roads.mjs';
import { dist } from './tool.mjs';

/** Measures what is wanted, one thing after the other. */
export class Bench {
  /** What was measured, by kind: the figures are computed from it. */
  samples = {
    help: [],
    starts: [],
    confined: [],
    warm: [],
    native: [],
    compile: [],
    hand: [],
    second: [],
    new: [],
    cold: [],
    boots: [],
    clones: [],
    bytes: [],
    matrix: [],
    roads: [],
  };
  /** Why a figure could not be measured. */
  failures = {};
  kernel = null;
  accelerator = null;
  scratch = null;

  constructor(options, signal) {
    this.options = options;
    this.signal = signal;
    this.modules = options.modules;
  }

  wants(...names) {
    return names.some((name) => this.options.wanted.has(name));
  }

  async run() {
    if (this.wants('help')) await this.attempt(['help'], () => this.help());
    await this.attempt(['confinement'], () => starts(this));
    const names = [...this.options.wanted].filter((name) => !['help', 'confinement'].includes(name));
    if (names.length === 0) return;
    await this.attempt(names, async () => {
      this.scratch = await mkdtemp(join(tmpdir(), 'dkms2bin-bench-'));
      await this.prepare();
      await this.attempt(['first-command', 'clone-memory'], () => clones(this));
      await this.attempt(['confined-run'], () => runs(this));
      await this.attempt(['native', 'overhead', 'tool-memory', 'same-bytes'], () => this.warm());
      await this.attempt(['compile'], () => this.compile());
      await this.attempt(['same-bytes'], () => this.coldBytes());
      await this.attempt(['second-module', 'new-kernel', 'cold'], () => byHand(this));
      await this.attempt(['roads'], () => roads(this));
      await this.attempt(['matrix'], async () => {
        await matrix(this, 'local', []);
        await throughWorkers(this);
      });
    });
  }

  async close() {
    if (this.scratch) await rm(this.scratch, { recursive: true, force: true });
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
    say(`kernel ${this.kernel}`);
    // Each road has caches of its own.
    if ([...this.options.wanted].some((name) => name !== 'help' && name !== 'roads'))
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
    say('making the cache warm');
    const { code, wall, stderr } = await this.measure(process.execPath, [MAIN, ...args], {
      onLine: (line) => process.stderr.write(`  ${line}\n`),
    });
    if (code !== 0) throw new Error(`dkms2bin images warm ended with ${code}:\n${stderr.slice(-2000)}`);
    say(`warm after ${show(wall)} s`);
  }

  shape({ image = this.options.image, distro = DISTRO } = {}) {
    return ['--distro', distro, '--image', image, '--cpus', String(CPUS), '--memory', `${MEMORY_MIB}M`];
  }

  /** One whole command. Throws unless it built the package. */
  async build(module, { proof, env = {}, onLine, image, distro, more = [] }) {
    const out = await mkdtemp(join(this.scratch, 'out-'));
    const peak = join(out, 'peak');
    const preload = `import { writeFileSync } from 'node:fs';
      process.on('exit', () => writeFileSync(process.env.BENCH_PEAK, String(process.resourceUsage().maxRSS)));`;
    const ended = await this.measure(
      process.execPath,
      [
        ...['--import', `data:text/javascript,${encodeURIComponent(preload)}`, MAIN],
        ...['--dkms', module.source, '--kernel', this.kernel, ...this.shape({ image, distro })],
        ...['--out-dir', out, '--force', '--json', ...(proof ? [] : ['--no-verify']), ...more],
      ],
      { env: { ...env, BENCH_PEAK: peak }, onLine },
    );
    const { wall, cpu, stderr } = ended;
    const document = ended.stdout === '' ? {} : JSON.parse(ended.stdout);
    const cell = document.cells?.[0];
    if (ended.code !== 0 || cell?.verdict !== 'built') {
      const why = cell?.reason ?? document.error?.message ?? stderr.slice(-2000);
      throw new Error(`${module.name} was not built (${ended.code}): ${why}`);
    }
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
        native = await nativeChroot(this);
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

  /** Compilations in the guest and on the host, in turns. */
  async compile() {
    const { rounds } = this.options;
    for (let round = 1; round <= rounds; round += 1) {
      for (const module of this.modules.filter(({ host }) => host !== null)) {
        for (const where of ['guest', 'host']) {
          const sample = await this.build(module, { proof: false, more: ['--compile', where] });
          this.samples.compile.push({ ...sample, where });
          say(`${module.name}, compiled by the ${where}: ${show(sample.phases.build)} s dkms build`);
        }
      }
    }
  }

  /** What the tool's own modules take, for these VMs. */
  async request(image = this.options.image) {
    const [{ requestOf }, { plan }, { loadCatalogue, findRow }] = await Promise.all([
      dist('options/request.js'),
      dist('engine/plan/plan.js'),
      dist('distro/catalogue.js'),
    ]);
    const emit = (event) => {
      if (event.type === 'note' && event.level === 'warn') say(event.message);
    };
    const { signal } = this;
    const options = { dkms: [BY_HAND.source], kernels: [this.kernel], distro: DISTRO, image };
    const request = requestOf({ ...options, cpus: CPUS, memoryMiB: MEMORY_MIB }, process.cwd());
    const [{ target }] = (await plan(request, { emit, signal })).cells;
    const context = {
      image,
      variant: 'build',
      arch: target.arch,
      offline: false,
      cwd: request.cwd,
      emit,
      signal,
    };
    return { row: findRow(await loadCatalogue(), DISTRO), target, context };
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
}
