import { readFileSync } from 'node:fs';
import { homedir, tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { standardVariable, variable } from './variables.js';

/** Root of the installed package: where `images/` and `cloud-init/` lie, from src/ and from dist/ alike. */
export const PACKAGE_ROOT = fileURLToPath(new URL('../..', import.meta.url));

/** Of this tool, as its package.json says. */
export function packageVersion(): string {
  const text = readFileSync(join(PACKAGE_ROOT, 'package.json'), 'utf8');
  return (JSON.parse(text) as { version: string }).version;
}

/** Images, layers and indexes: can be deleted at any time. DKMS2BIN_CACHE wins over XDG_CACHE_HOME. */
export function cacheDir(): string {
  return (
    variable('DKMS2BIN_CACHE') ??
    join(standardVariable('XDG_CACHE_HOME') ?? join(homedir(), '.cache'), 'dkms2bin')
  );
}

/** What outlives a run and is no package. DKMS2BIN_STATE wins over XDG_STATE_HOME. */
export function stateDir(): string {
  return (
    variable('DKMS2BIN_STATE') ??
    join(standardVariable('XDG_STATE_HOME') ?? join(homedir(), '.local', 'state'), 'dkms2bin')
  );
}

/** Runs, kept ones too. */
export function runsDir(): string {
  return join(stateDir(), 'runs');
}

/** Parent of socket folders: short, because a unix socket path holds 108 bytes. */
export function socketParent(): string {
  return standardVariable('XDG_RUNTIME_DIR') ?? tmpdir();
}
