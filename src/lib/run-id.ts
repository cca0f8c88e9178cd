import { randomBytes } from 'node:crypto';

/** `20261124T140512-3fa9c1`: sorts by time. */
export function newRunId(): string {
  const stamp = new Date().toISOString().replace(/[-:]/g, '').slice(0, 15);
  return `${stamp}-${randomBytes(3).toString('hex')}`;
}
