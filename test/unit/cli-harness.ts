import { PassThrough } from 'node:stream';
import type { CliContext } from '../../src/cli/context.js';
import { runCli } from '../../src/cli/run.js';
import type { Engine } from '../../src/cli/services.js';
import type { CellResult } from '../../src/model/cell.js';
import type { BuildPlan } from '../../src/engine/plan/types.js';
import type { BuildRequest } from '../../src/options/request.js';

export function cell(values: Partial<CellResult> = {}): CellResult {
  return {
    module: 'acpi_call',
    version: '1.2.2',
    kernel: '6.1.0-56-amd64',
    distro: 'debian-12',
    arch: 'x86_64',
    verdict: 'built',
    reason: null,
    package: '/out/acpi_call_1.2.2-6.1.0-56-amd64_x86_64.deb',
    log: '/out/acpi_call.log',
    phases: { push: 1.5, build: 44.1 },
    kept: null,
    fault: null,
    ...values,
  };
}

export function planOf(request: BuildRequest): BuildPlan {
  return {
    request,
    cells: request.dkms.map((source) => ({
      source,
      kernel: request.kernels[0] ?? '6.1.0-56-amd64',
      distro: 'debian-12',
      arch: 'x86_64',
      packageVersion: '6.1.192-2',
      image: 'auto',
      fileStyle: request.nameStyle,
      module: { kind: 'repo', text: source, name: source },
      target: { release: request.kernels[0] ?? '6.1.0-56-amd64', distro: 'debian-12', arch: 'x86_64' },
    })),
  };
}

export class Screen {
  text = '';
  isTTY = false;
  columns = 100;
  rows = 24;
  write(text: string): boolean {
    this.text += text;
    return true;
  }
}

export interface Fake extends Partial<Engine> {
  cells?: CellResult[];
}

/** Runs one command line in this process against a fake engine. */
export async function cli(
  argv: string[],
  fake: Fake = {},
  options: { signal?: AbortSignal; env?: Record<string, string>; stdin?: PassThrough; tty?: boolean } = {},
): Promise<{ code: number; stdout: string; stderr: string; requests: BuildRequest[] }> {
  const requests: BuildRequest[] = [];
  const unexpected = (): never => {
    throw new Error('not expected in this test');
  };
  const engine: Engine = {
    loadConfig: () => Promise.resolve({}),
    plan: (request) => {
      requests.push(request);
      return Promise.resolve(planOf(request));
    },
    build: () => Promise.resolve({ run: 'r1', accelerator: 'tcg', cells: fake.cells ?? [cell()] }),
    planMatrix: unexpected,
    matrix: unexpected,
    planRefresh: unexpected,
    refresh: unexpected,
    work: unexpected,
    board: unexpected,
    planBisect: unexpected,
    bisect: unexpected,
    listRuns: unexpected,
    removeRun: unexpected,
    login: unexpected,
    listImages: unexpected,
    pruneImages: unexpected,
    verifyImages: unexpected,
    warmImages: unexpected,
    prove: unexpected,
    listKernels: unexpected,
    listDistros: unexpected,
    probeAccelerators: unexpected,
    publishRepository: unexpected,
    serveRepository: unexpected,
    inspect: unexpected,
    ...fake,
  };
  const stdout = new Screen();
  const stderr = new Screen();
  stderr.isTTY = options.tty === true;
  const stdin = Object.assign(options.stdin ?? new PassThrough(), { isTTY: options.tty === true });
  const code = await runCli(argv, {
    engine,
    stdin,
    stdout,
    stderr: stderr as unknown as CliContext['stderr'],
    env: options.env ?? {},
    cwd: '/home/user/project',
    signal: options.signal ?? new AbortController().signal,
    interrupt: unexpected,
  });
  return { code, stdout: stdout.text, stderr: stderr.text, requests };
}
