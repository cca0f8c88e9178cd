import { relative } from 'node:path';
import { oneLine, plain } from '../../lib/text.js';
import { command } from '../frame.js';

export const init = command({
  name: 'init',
  summary: 'write a dkms.conf for a folder that has none',
  description:
    'Writes the dkms.conf that a build of the folder would be given: made of obj-m in its Makefile or Kbuild, or of its dkms.conf.in or debian/*.dkms with the version filled in. Nothing of the folder is run, and a dkms.conf that is there is not changed.',
  arguments: [{ name: '[folder]', help: 'folder of the source (default: this folder)', completes: 'files' }],
  examples: ['dkms2bin init ./hello', 'dkms2bin init --module-version 1.4 ./hello'],
  run: async (
    { words: [folder = '.'], options: { moduleVersion } },
    { engine, cwd, signal, stdout, stderr },
  ) => {
    const { path, conf, said } = await engine.init(folder, { cwd, moduleVersion, signal });
    stderr.write(`${oneLine(said)}\nWrote ${oneLine(relative(cwd, path) || path)}:\n`);
    stdout.write(plain(conf));
  },
});
