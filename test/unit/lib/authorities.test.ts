import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { extraAuthorities } from '../../../src/lib/authorities.js';

describe('extraAuthorities', () => {
  const before = process.env.NODE_EXTRA_CA_CERTS;
  let folder = '';
  beforeEach(() => {
    folder = mkdtempSync(join(tmpdir(), 'dk2b-authorities-'));
  });
  afterEach(() => {
    rmSync(folder, { recursive: true });
    if (before === undefined) delete process.env.NODE_EXTRA_CA_CERTS;
    else process.env.NODE_EXTRA_CA_CERTS = before;
  });

  const of = (text: string): Promise<string> => {
    process.env.NODE_EXTRA_CA_CERTS = join(folder, 'ca.pem');
    writeFileSync(process.env.NODE_EXTRA_CA_CERTS, text);
    return extraAuthorities();
  };
  const one = '-----BEGIN CERTIFICATE-----\nMIIB+/=\nAAAA\n-----END CERTIFICATE-----';

  it('has the certificates and nothing else of the file', async () => {
    const key = '-----BEGIN PRIVATE KEY-----\nMIIB\n-----END PRIVATE KEY-----';
    expect(await of(`# ours\n${one}\n${key}\n${one.replaceAll('\n', '\r\n')}\r\n`)).toBe(`${one}\n${one}`);
    expect(await of('-----BEGIN CERTIFICATE-----\n$(reboot)\n-----END CERTIFICATE-----\n')).toBe('');
  });

  it('has none without the variable or the file', async () => {
    process.env.NODE_EXTRA_CA_CERTS = join(folder, 'none.pem');
    expect(await extraAuthorities()).toBe('');
    delete process.env.NODE_EXTRA_CA_CERTS;
    expect(await extraAuthorities()).toBe('');
  });
});
