import { command } from '../frame.js';

export const login = command({
  name: 'login',
  summary: 'open a shell in a kept VM',
  description:
    'Opens a shell in a kept VM, in the build tree of the module. It is booted again if it is not running.',
  arguments: [
    {
      name: '[run]',
      help: 'name of the kept VM, as `dkms2bin runs` lists it (default: the newest)',
      completes: 'runs',
    },
  ],
  notes:
    'In the shell, dkms2bin-rebuild runs the same build command again. Leave it with exit or Ctrl-D, and with Enter, ~ and . when the guest does not answer. Ctrl-] leaves the console that --serial opens.',
  run: async ({ words: [run], options: { serial } }, { engine, signal }) =>
    engine.login(run, { serial, signal }),
});
