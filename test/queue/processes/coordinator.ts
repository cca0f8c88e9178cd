import './killed.js';
import { queueExecutor, type QueueOptions } from '../../../src/engine/queue/executor.js';
import type { BuildPlan } from '../../../src/engine/plan/types.js';

/** A run of its own, to be killed. Prints what it hears as lines of JSON. */
const { plan, options } = JSON.parse(process.env.SETTING!) as { plan: BuildPlan; options: QueueOptions };
const controller = new AbortController();
process.once('SIGINT', () => controller.abort());
const say = (what: object): void => console.log(JSON.stringify(what));
await queueExecutor(options).run(plan, {
  emit: (event) => say({ event }),
  signal: controller.signal,
  expectedSeconds: () => null,
  begun: ({ source, kernel }, worker) => say({ begun: `${source} × ${kernel}`, worker }),
  ended: ({ source, kernel }, { results }) => {
    say({ ended: `${source} × ${kernel}`, verdicts: results.map(({ verdict }) => verdict) });
    return Promise.resolve();
  },
});
say({ over: true });
