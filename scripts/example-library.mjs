// dkms2bin as a library: plans, builds with events, ends cleanly on Ctrl-C.
//   node scripts/example-library.mjs acpi-call-dkms latest debian-12 [--plan]
import { build, buildRequest, Dkms2binError, plan } from 'dkms2bin';

const [dkms = 'acpi-call-dkms', kernel = 'latest', distro = 'debian-12'] = process.argv.slice(2);
const aborter = new AbortController();
process.once('SIGINT', () => aborter.abort());

const context = {
  signal: aborter.signal,
  emit: (event) => {
    if (event.type === 'note' && event.level !== 'debug') console.error(`${event.level}: ${event.message}`);
    if (event.type === 'phase' && event.state === 'end')
      console.error(`${event.cell ?? 'all'}: ${event.phase} took ${event.seconds?.toFixed(1)} s`);
  },
};

try {
  const request = buildRequest({
    dkms: [dkms],
    kernels: [kernel],
    distro,
    outDir: './out',
    mirror: process.env.MIRROR,
  });
  const cells = await plan(request, context);
  for (const cell of cells.cells) console.log(`${cell.source} for ${cell.kernel} (${cell.distro})`);
  if (!process.argv.includes('--plan')) {
    const { cells: results } = await build(cells, context);
    for (const { module, kernel, verdict, reason, package: file } of results)
      console.log(`${verdict} ${module} ${kernel} ${file ?? reason}`);
  }
} catch (error) {
  if (!(error instanceof Dkms2binError)) throw error;
  console.error(`${error.message}\n${error.hint ?? ''}`);
  process.exitCode = error.exitCode;
}
