import { resolve } from 'node:path';
import { Dkms2binError, EXIT_CODE } from '../../model/errors.js';
import { holds } from '../../model/upgrade-proof.js';
import { requestOf } from '../../options/request.js';
import { proofDocument } from '../../report/json.js';
import { proofText, upgradeText } from '../../report/proof.js';
import { command } from '../frame.js';

export const prove = command({
  name: 'prove',
  summary: 'install packages from a repository on a machine without a compiler, and load the modules',
  description:
    "Boots a clean VM of the distro that runs the kernel and has no compiler, no headers and no dkms; adds the repository with its key, installs the packages with apt or dnf and loads their modules. The VM reaches nothing but the repository; where the packages need more of the distro, a second VM downloads that first from the package sources of its image. Reports how much was saved compared with installing the DKMS package and its toolchain. Exits with 1 when a package does not install or a module does not load. With --from and --to a VM that follows the repository's metapackages is led from one kernel to the next: while the distro offers it and the repository has no module for it, every kind of upgrade must keep the old kernel; then one upgrade brings both, the VM restarts into the new kernel, loads the module, and the old kernel is removed.",
  arguments: [
    {
      name: '<dir>',
      help: 'the repository: a folder that --repo or dkms2bin repo made one',
      completes: 'files',
    },
  ],
  usage: '<dir> --kernel <release> | --from <release> --to <release> [options]',
  heading: 'What to prove:',
  examples: [
    'dkms2bin prove ./out --kernel 6.1.0-56-amd64',
    'dkms2bin prove ./out --from 6.1.0-55-amd64 --to 6.1.0-56-amd64',
  ],
  run: async ({ words: [dir = ''], options }, { engine, ui, cwd, signal, answer }) => {
    const { kernel, from, to, modules, ...machine } = options;
    const request = requestOf(machine, cwd);
    const what = { dir: resolve(cwd, dir), modules };
    const context = { emit: ui.emit, signal };
    if (from !== undefined || to !== undefined) {
      if (from === undefined || to === undefined) throw missing(from === undefined ? 'from' : 'to');
      const proof = await engine.proveUpgrade(request, { ...what, from, to }, context);
      answer(
        () => proofDocument(proof),
        () => upgradeText(proof),
      );
      return holds(proof) ? undefined : EXIT_CODE.module;
    }
    if (kernel === undefined) throw missing('kernel');
    const proof = await engine.prove({ ...request, kernels: [kernel] }, what, context);
    answer(
      () => proofDocument(proof),
      () => proofText(proof),
    );
    if (proof.modules.some(({ verdict }) => verdict === 'failed')) return EXIT_CODE.module;
  },
});

const missing = (name: string): Dkms2binError =>
  new Dkms2binError('usage', `--${name} is missing`, {
    hint: `Give it as --${name} <release>; --kernel proves the packages for one kernel, --from and --to the way to the next.`,
  });
