import { resolve } from 'node:path';
import { EXIT_CODE } from '../../model/errors.js';
import { requestOf } from '../../options/request.js';
import { proofDocument } from '../../report/json.js';
import { proofText } from '../../report/proof.js';
import { command } from '../frame.js';

export const prove = command({
  name: 'prove',
  summary: 'install packages from a repository on a machine without a compiler, and load the modules',
  description:
    'Boots a clean VM of the distro that runs the kernel and has no compiler, no headers and no dkms; adds the repository with its key, installs the packages with apt or dnf and loads their modules. The VM reaches nothing but the repository. Reports how much was saved compared with installing the DKMS package and its toolchain. Exits with 1 when a package does not install or a module does not load.',
  arguments: [
    {
      name: '<dir>',
      help: 'the repository: a folder that --repo or dkms2bin repo made one',
      completes: 'files',
    },
  ],
  usage: '<dir> --kernel <release> [options]',
  heading: 'What to prove:',
  run: async ({ words: [dir = ''], options }, { engine, ui, cwd, signal, answer }) => {
    const { kernel, modules, ...machine } = options;
    const request = { ...requestOf(machine, cwd), kernels: [kernel] };
    const proof = await engine.prove(request, { dir: resolve(cwd, dir), modules }, { emit: ui.emit, signal });
    answer(
      () => proofDocument(proof),
      () => proofText(proof),
    );
    if (proof.modules.some(({ verdict }) => verdict === 'failed')) return EXIT_CODE.module;
  },
});
