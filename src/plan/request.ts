import type { BuildRequest } from './types.js';

export const DEFAULTS = {
  outDir: './out',
  image: 'auto',
  timeoutSeconds: 7200,
  accel: 'auto',
  nameStyle: 'seed',
} as const satisfies Partial<BuildRequest>;

/** Any field of a request; one that is undefined counts as not given. */
export type RequestValues = { [K in keyof BuildRequest]?: BuildRequest[K] | undefined };

/** A request with the command line's defaults for what is not given; `cwd` is the process's. */
export function buildRequest(values: RequestValues): BuildRequest {
  const given = Object.fromEntries(Object.entries(values).filter(([, value]) => value !== undefined));
  return {
    ...DEFAULTS,
    dkms: [],
    kernels: [],
    verify: true,
    debugSymbols: false,
    checkReproducible: false,
    force: false,
    debug: false,
    keepFailed: false,
    offline: false,
    kernelPackages: [],
    cwd: process.cwd(),
    ...given,
  };
}
