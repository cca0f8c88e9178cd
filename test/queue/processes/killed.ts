import { Redis } from 'ioredis';
import type { countSteps as CountSteps } from '../../host/fixtures/steps.js';

// With KILL_AT this process kills itself at that step, a command to Redis among them; 0: it lives, and says how many there were.
const { KILL_AT } = process.env;
if (KILL_AT !== undefined) {
  // Beside this file once both are programs.
  const beside = './steps.js';
  const { countSteps } = (await import(beside)) as { countSteps: typeof CountSteps };
  const steps = await countSteps(Number(KILL_AT), [{ of: Redis.prototype, methods: ['sendCommand'] }]);
  process.once('exit', () => console.log(JSON.stringify({ steps: steps.count })));
}
