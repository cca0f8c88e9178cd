import { connect, type Socket } from 'node:net';

/**
 * Carries what the guest sends to its address NET.management.forward to a port of 127.0.0.1, and the answers back, until
 * it is disposed. QEMU gives all connections of the guest's as one stream and does not tell where one ends: so they must
 * come one after the other, each with whole requests, as HTTP clients make them. When the server ends its connection,
 * the next bytes begin another.
 */
export function forwardTo(port: number, socketPath: string): Disposable {
  const guest = connect(socketPath);
  let server: Socket | undefined;
  const join = (): Socket => {
    const mine = connect(port, '127.0.0.1');
    const end = (): void => {
      if (server === mine) server = undefined;
      // It may have been the one that did not take more.
      guest.resume();
    };
    mine.on('data', (bytes) => {
      if (guest.write(bytes)) return;
      mine.pause();
      guest.once('drain', () => mine.resume());
    });
    mine.on('drain', () => guest.resume());
    // What a lost connection means is the guest's client's to find out.
    mine.on('error', () => undefined);
    mine.on('end', end).on('close', end);
    return mine;
  };
  guest.on('data', (bytes) => {
    server ??= join();
    if (!server.write(bytes)) guest.pause();
  });
  // The VM is gone: whoever waits for the guest hears of it.
  guest.on('error', () => undefined);
  guest.on('close', () => server?.destroy());
  return {
    [Symbol.dispose]: () => {
      guest.destroy();
      server?.destroy();
    },
  };
}
