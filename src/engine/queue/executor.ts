import { scratch } from '../../lib/scratch.js';
import { openStore } from '../../lib/object-store/index.js';
import type { Executor } from '../executor.js';
import { Coordinator } from './coordinator.js';
import { Jobs } from './jobs.js';
import { connect, parseAddress } from './redis.js';
import { TIMING, type Timing } from './timing.js';

export interface QueueOptions {
  /** Of Redis or Valkey. */
  url: string;
  /** Folder, `s3://BUCKET/PREFIX` or URL that all machines share: sources go there and packages come from there. */
  store: string;
  /** After so long without a worker that can do them cells end as errors; absent: they wait for ever. */
  waitSeconds?: number;
  timing?: Partial<Timing>;
}

/** Hands cells to workers over a queue, and publishes what they deliver. This machine builds nothing. */
export function queueExecutor(options: QueueOptions): Executor {
  return {
    run: async (plan, context) => {
      const address = parseAddress(options.url);
      const store = await openStore(options.store, context);
      await using place = await scratch();
      const jobs = await Jobs.of(plan, { ...context, store, dir: place.dir });
      const redis = await connect(address, context.emit);
      const listening = redis.duplicate({ lazyConnect: false });
      listening.on('error', () => undefined);
      try {
        const timing = { ...TIMING, ...options.timing };
        const { waitSeconds = Infinity } = options;
        const means = { jobs, store, dir: place.dir, redis, listening, timing, waitMs: waitSeconds * 1000 };
        await new Coordinator(plan, context, means).run();
      } finally {
        redis.disconnect();
        listening.disconnect();
      }
    },
  };
}
