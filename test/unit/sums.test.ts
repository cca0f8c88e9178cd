import { describe, expect, it } from 'vitest';
import { nameLike, parseDigest, parseSums } from '../../src/environment/sums.js';

describe('parseSums', () => {
  const s256 = 'a1'.repeat(32);
  const s512 = 'b2'.repeat(64);
  it.each([
    ['sha512sums', `${s512}  i.img\n`, s512],
    ['sha256sums', `${'0'.repeat(64)} *j.img\n${s256.toUpperCase()} *i.img\r\n`, s256],
    [
      'bsd-checksum',
      `# i.img: 5 bytes\nSHA256 (i.img) = ${s256}\nSHA256 (j.img) = ${'0'.repeat(64)}\n`,
      s256,
    ],
    [
      'json',
      JSON.stringify({
        a: [
          { image: 'i.img', sha256: s256 },
          { image: 'j.img', sha256: '0'.repeat(64) },
        ],
      }),
      s256,
    ],
    [
      'json',
      JSON.stringify({
        items: ['j.img', 'i.img'].map((ref, i) => ({
          data: { ref },
          metadata: {
            annotations: {
              digest: `sha512:${Buffer.from(i ? s512 : '00'.repeat(64), 'hex')
                .toString('base64')
                .replace(/=+$/, '')}`,
            },
          },
        })),
      }),
      s512,
    ],
    [
      'json',
      JSON.stringify([
        { link: 'https://x/j.img', sha256: '0'.repeat(64) },
        { link: 'https://x/i.img', sha256: s256 },
      ]),
      s256,
    ],
  ] as const)('reads %s', (form, text, hex) => {
    expect(parseSums(text, form, 'i.img').hex).toBe(hex);
    expect(() => parseSums(text, form, 'k.img')).toThrow('does not list k.img');
  });

  it('refuses two answers, cut digests and another form', () => {
    expect(() => parseSums(`${s512}  i\n${'0'.repeat(128)}  i\n`, 'sha512sums', 'i')).toThrow(
      '2 different digests',
    );
    expect(() => parseSums(`${s512.slice(0, 100)}  i\n`, 'sha512sums', 'i')).toThrow('does not list');
    expect(() => parseSums(`${s256}  i\n`, 'sha512sums', 'i')).toThrow('does not list');
    expect(() => parseSums('<html>', 'json', 'i')).toThrow('is not JSON');
  });
});

describe('sums as distros write them', () => {
  const hex = 'ab'.repeat(32);
  it.each([
    ['openSUSE 15.6, one blank', 'sha256sums', `${hex} Leap.qcow2\n`, 'Leap.qcow2'],
    ['openSUSE 16, two blanks', 'sha256sums', `${hex}  Leap.qcow2\n`, 'Leap.qcow2'],
    ['Ubuntu, a star', 'sha256sums', `${hex} *noble.img\n`, 'noble.img'],
    ['Rocky', 'bsd-checksum', `# R.qcow2: 645988352 bytes\nSHA256 (R.qcow2) = ${hex}\n`, 'R.qcow2'],
    [
      'Oracle',
      'json',
      JSON.stringify({
        base_url: '/t/OL9',
        kvm: { image: 'OL9.qcow2', sha256: hex },
        ova: { image: 'OL9.ova', sha256: '0' },
      }),
      'OL9.qcow2',
    ],
  ] as const)('%s', (_who, form, text, name) => {
    expect(parseSums(text, form, name)).toEqual({ algorithm: 'sha256', hex });
  });

  it('the name that a * stands for must be the only one', () => {
    const line = (name: string): string => `${hex}  ${name}\n`;
    const old = 'al2023-kvm-2023.9.20260101.0-kernel-6.1-x86_64.xfs.gpt.qcow2';
    const text = line(old) + line('al2023-kvm-2023.9.20260101.0-kernel-6.12-x86_64.xfs.gpt.qcow2');
    const pattern = 'al2023-kvm-*-kernel-6.1-x86_64.xfs.gpt.qcow2';
    expect(nameLike(text, 'sha256sums', pattern)).toBe(old);
    expect(() => nameLike(text + line(old.replace('0101', '0202')), 'sha256sums', pattern)).toThrow(/ and /);
    expect(() => nameLike('', 'sha256sums', pattern)).toThrow(/nothing like/);
  });
});

describe('parseDigest', () => {
  it('takes either algorithm with as many digits as it has, and nothing else', () => {
    expect(parseDigest(`sha256:${'a'.repeat(64)}`)).toEqual({ algorithm: 'sha256', hex: 'a'.repeat(64) });
    expect(parseDigest(`sha512:${'0'.repeat(128)}`).algorithm).toBe('sha512');
    for (const text of [
      `sha512:${'a'.repeat(64)}`,
      `sha256:${'A'.repeat(64)}`,
      `md5:${'a'.repeat(32)}`,
      '',
    ]) {
      expect(() => parseDigest(text)).toThrow('Not a digest');
    }
  });
});
