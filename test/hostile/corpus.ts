import { readFileSync } from 'node:fs';

/** The rows of one class of hostile inputs. */
export const corpus = <Row>(name: string): Row[] =>
  JSON.parse(readFileSync(new URL(`${name}.json`, import.meta.url), 'utf8')) as Row[];

/** A copy of `value` with another one at a place such as `results.0.log`. */
export function changedAt<T>(value: T, at: string, input: unknown): T {
  const copy = structuredClone(value);
  const path = at.split('.');
  const last = path.pop() ?? '';
  let place = copy as Record<string, unknown>;
  for (const part of path) place = place[part] as Record<string, unknown>;
  place[last] = input;
  return copy;
}

/** The places of all strings in a value, with these. */
export function placesOf(value: unknown, at: readonly string[] = []): [string, string][] {
  if (typeof value === 'string') return [[at.join('.'), value]];
  if (typeof value !== 'object' || value === null) return [];
  return Object.entries(value).flatMap(([key, each]) => placesOf(each, [...at, key]));
}

const SHA = 'a'.repeat(64);

/** A job that every worker for Debian 12 takes. */
export const JOB = {
  ...{ source: { kind: 'folder', text: './m', file: 'm', sha256: SHA }, otherSources: [] },
  kernel: { release: '6.1.0-1-amd64', packageVersion: '6.1.4-1' },
  ...{ kernelPackages: [], buildPackages: [] },
  ...{ need: { distro: 'debian-12', arch: 'x86_64', accelerator: null, signer: null } },
  ...{
    image: 'auto',
    nameStyle: 'release',
    verify: true,
    strict: false,
    debugSymbols: false,
    checkReproducible: false,
  },
  timeoutSeconds: 60,
} as const;

const NAME = 'm_1-6.1.0-1-amd64_x86_64';

/** A delivery that this job asks for. */
export const DELIVERY = {
  results: [
    {
      ...{ module: 'm', version: '1', kernel: '6.1.0-1-amd64', distro: 'debian-12', arch: 'x86_64' },
      ...{ verdict: 'built', reason: null, package: `${NAME}.deb`, log: `${NAME}.log`, phases: { dkms: 1 } },
      ...{ kept: null, fault: null },
    },
  ],
  files: ['deb', 'log'].map((end) => ({ name: `${NAME}.${end}`, sha256: SHA, size: 3 })),
  ...{ worker: 'one', accelerator: 'tcg', seconds: 2 },
};
