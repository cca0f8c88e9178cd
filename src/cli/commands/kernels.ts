import { SCHEMA_VERSION } from '../../report/json.js';
import { table } from '../../report/text.js';
import { command } from '../frame.js';

export const kernels = command({
  name: 'kernels',
  summary: 'list the kernels that can be built for',
  description:
    "Lists the kernels that the distro's archive has with their headers, newest first, as --kernel takes them.",
  run: async (
    { options: { distro, arch, mirror, proxy, offline, kernelRepos } },
    { engine, ui, signal, answer, cwd },
  ) => {
    const found = await engine.listKernels(distro, {
      emit: ui.emit,
      signal,
      arch,
      mirror,
      proxy,
      kernelRepos,
      cwd,
      ...(offline && { offline }),
    });
    const rows = found.map((k) => [k.release, k.distro, k.packageVersion, k.suite]);
    answer(
      () => ({ schemaVersion: SCHEMA_VERSION, kernels: found }),
      () => table([['KERNEL', 'DISTRO', 'PACKAGE VERSION', 'SUITE'], ...rows]),
    );
  },
});
