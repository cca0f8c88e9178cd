import { cacheDir } from '../lib/paths.js';
import type { ResolveOptions } from '../distro/resolve.js';
import type { Arch } from '../model/cell.js';
import type { PlanContext } from '../model/context.js';
import type { BuildRequest } from '../options/request.js';
import type { PublishedModule } from './plan/refresh.js';

/** How a distro is asked what it has now. */
export const resolveOptions = (
  request: Pick<BuildRequest, 'offline' | 'mirror' | 'proxy'>,
  arch: Arch,
  { emit, signal }: PlanContext,
): ResolveOptions => ({
  cacheDir: cacheDir(),
  arch,
  offline: request.offline,
  mirror: request.mirror,
  proxy: request.proxy,
  signal,
  // An hour-old answer would hide the kernel of the hour.
  maxAge: 0,
  warn: (message) => emit({ type: 'note', level: 'warn', message }),
});

/** The distros and architectures of published modules, each once. */
export const placesOf = (published: readonly PublishedModule[]): { distro: string; arch: Arch }[] => [
  ...new Map(published.map(({ distro, arch }) => [`${distro} ${arch}`, { distro, arch }])).values(),
];
