import { expect, test } from 'vitest';
import { parseAddress } from '../../src/engine/queue/redis.js';

test.each([
  ['redis://queue.example', { host: 'queue.example', port: 6379, db: 0 }, 'redis://queue.example:6379'],
  [
    'redis://queue.example:7000/2',
    { host: 'queue.example', port: 7000, db: 2 },
    'redis://queue.example:7000/2',
  ],
  ['redis://[::1]:7000', { host: '::1', port: 7000, db: 0 }, 'redis://[::1]:7000'],
  ['unix:/run/redis.sock?db=3', { path: '/run/redis.sock', db: 3 }, 'unix:/run/redis.sock'],
  [
    'rediss://queue.example',
    { host: 'queue.example', port: 6379, db: 0, tls: { servername: 'queue.example' } },
    'rediss://queue.example:6379',
  ],
  ['rediss://10.0.0.1', { host: '10.0.0.1', port: 6379, db: 0, tls: {} }, 'rediss://10.0.0.1:6379'],
])('%s', (url, options, label) => {
  expect(parseAddress(url, {})).toEqual({ label, options });
});

test('user and password come from the address, the password else from the environment; the label has neither', () => {
  const { label, options } = parseAddress('redis://me:s%40crt@queue.example', {
    DKMS2BIN_QUEUE_PASSWORD: 'other',
  });
  expect(options).toMatchObject({ username: 'me', password: 's@crt' });
  expect(label).toBe('redis://queue.example:6379');
  expect(parseAddress('redis://q', { DKMS2BIN_QUEUE_PASSWORD: 'other' }).options.password).toBe('other');
});

test.each(['queue.example:6379', 'http://queue.example', 'redis://queue.example/x', 'unix:run', 'redis://'])(
  '%s is no address',
  (url) => {
    expect(() => parseAddress(url, {})).toThrow('--queue: not the address of a Redis server');
  },
);

test('an error does not repeat the password', () => {
  expect(() => parseAddress('http://me:secret@queue.example', {})).toThrow(
    /^(?!.*secret).*http:\/\/queue[.]example/,
  );
});
