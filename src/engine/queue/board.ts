import type { AddressInfo } from 'node:net';
import { createBullBoard } from '@bull-board/api';
import { BullMQAdapter } from '@bull-board/api/bullMQAdapter';
import { HonoAdapter } from '@bull-board/hono';
import { serve } from '@hono/node-server';
import { serveStatic } from '@hono/node-server/serve-static';
import { Queue } from 'bullmq';
import { Hono } from 'hono';
import { Dkms2binError, messageOf } from '../../model/errors.js';
import type { PlanContext } from '../../model/context.js';
import { connect, parseAddress } from './redis.js';
import { NAMES, PREFIX } from './protocol.js';

/** Queues appear as runs make them. */
const LOOK_MS = 5000;

/**
 * Shows the queues in a browser on this machine until `signal` is aborted: to look at, nothing can be changed. Calls `ready`
 * with its address.
 */
export async function board(
  { url, port }: { url: string; port: number },
  context: PlanContext & { ready: (address: string) => void },
): Promise<void> {
  const address = parseAddress(url);
  const redis = await connect(address, context.emit);
  const queues = new Map<string, Queue>();
  try {
    const adapter = new HonoAdapter(serveStatic);
    const shown = createBullBoard({
      queues: [],
      serverAdapter: adapter,
      options: { uiConfig: { boardTitle: `dkms2bin at ${address.label}` } },
    });
    const look = async (): Promise<void> => {
      for (const name of Object.keys(await redis.hgetall(NAMES.queues))) {
        if (queues.has(name)) continue;
        const queue = new Queue(name, { connection: redis, prefix: PREFIX, skipMetasUpdate: true });
        queue.on('error', () => undefined);
        queues.set(name, queue);
        shown.addQueue(new BullMQAdapter(queue, { readOnlyMode: true }));
      }
    };
    await look();
    const app = new Hono();
    // A page elsewhere that gave its own name this address must not read it.
    app.use(async (c, next) => {
      const host = (c.req.header('host') ?? '').replace(/:\d+$/, '');
      return ['127.0.0.1', 'localhost'].includes(host) ? next() : c.text('Not found', 404);
    });
    adapter.setBasePath('/');
    app.route('/', adapter.registerPlugin());
    const server = serve({ fetch: app.fetch, hostname: '127.0.0.1', port });
    await new Promise<void>((resolve, reject) => {
      server.once('listening', resolve);
      server.once('error', (error: unknown) =>
        reject(new Dkms2binError('usage', `Port ${port} cannot be used: ${messageOf(error)}`)),
      );
    });
    const timer = setInterval(() => void look().catch(() => undefined), LOOK_MS);
    context.ready(`http://127.0.0.1:${(server.address() as AddressInfo).port}/`);
    await new Promise<void>((resolve) => {
      if (context.signal.aborted) resolve();
      context.signal.addEventListener('abort', () => resolve(), { once: true });
    });
    clearInterval(timer);
    await new Promise((resolve) => {
      server.close(resolve);
      if ('closeAllConnections' in server) server.closeAllConnections();
    });
  } finally {
    redis.disconnect();
  }
}
