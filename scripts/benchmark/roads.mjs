// The two roads to a first package side by side: the distro's own image, from a server on this host, and a bootstrapped one.
import { createReadStream } from 'node:fs';
import { chmod, mkdir, mkdtemp, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { createServer } from 'node:http';
import { basename, dirname, join } from 'node:path';
import { parse } from 'yaml';
import { say, show } from './measure.mjs';
import { BY_HAND, DISTRO, ROOT } from './options.mjs';
import { dist } from './tool.mjs';

/** A row of the catalogue like that of the distro, with another server of images. */
const OFFICIAL = `${DISTRO}-official`;

/** Serves the folder's image as the distro does, and a catalogue with a row for it. */
async function serve(folder, scratch) {
  const server = createServer((asked, answer) => {
    const file = join(folder, basename(asked.url));
    stat(file).then(
      ({ size }) => {
        answer.writeHead(200, { 'content-length': size });
        if (asked.method === 'HEAD') answer.end();
        else createReadStream(file).pipe(answer);
      },
      () => answer.writeHead(404).end(),
    );
  });
  await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
  const text = await readFile(join(ROOT, 'images/debian.yaml'), 'utf8');
  const origin = `http://127.0.0.1:${server.address().port}`;
  const { family, rows } = parse(text.replaceAll('https://cloud.{domain}', origin), { merge: true });
  const { aliases: _aliases, next: _next, ...row } = rows.find(({ id }) => id === DISTRO);
  const catalogue = await mkdtemp(join(scratch, 'catalogue-'));
  await writeFile(
    join(catalogue, 'debian.yaml'),
    JSON.stringify({ family, rows: [{ ...row, id: OFFICIAL }] }),
  );
  return { server, catalogue };
}

/** Seconds of the steps of a bootstrap, from the lines that the tool prints of them. */
function bootstrapSeconds(lines) {
  const told = lines.flatMap((line) => {
    const [, minutes, seconds] = /bootstrap \w+ done in (?:(\d+):)?([\d.]+)/.exec(line) ?? [];
    return seconds === undefined ? [] : [Number(minutes ?? 0) * 60 + Number(seconds)];
  });
  return told.reduce((sum, each) => sum + each, 0);
}

/** Each road cold and then warm, in turns. */
export async function roads(bench) {
  const { rounds, official } = bench.options;
  if (official === null) throw new Error('it needs --official FOLDER, with an image and SHA512SUMS');
  const { cacheDir } = await dist('lib/paths.js');
  const { server, catalogue } = await serve(official, bench.scratch);
  const known = { accelerator: join(cacheDir(), 'accelerator.json') };
  try {
    for (let round = 1; round <= rounds; round += 1)
      for (const [road, distro, env] of [
        ['bootstrap', DISTRO, {}],
        ['official', OFFICIAL, { DKMS2BIN_CATALOGUE: catalogue }],
      ]) {
        const cache = await mkdtemp(join(dirname(cacheDir()), 'dkms2bin-bench-'));
        // In a bootstrap another user, the root of a namespace, works below it.
        await chmod(cache, 0o755);
        await mkdir(cache, { recursive: true });
        const accelerator = await readFile(known.accelerator).catch(() => null);
        if (accelerator) await writeFile(join(cache, 'accelerator.json'), accelerator);
        try {
          for (const state of ['cold', 'warm']) {
            const lines = [];
            say(`${road}, ${state}, round ${round} of ${rounds}:`);
            const sample = await bench.build(BY_HAND, {
              proof: true,
              image: road,
              distro,
              env: { ...env, DKMS2BIN_CACHE: cache },
              onLine: (line) => {
                lines.push(line);
                process.stderr.write(`  ${line}\n`);
              },
            });
            bench.samples.roads.push({ ...sample, road, state, bootstrap: bootstrapSeconds(lines) });
            say(`${road}, ${state}: ${show(sample.wall)} s`);
          }
        } finally {
          await rm(cache, { recursive: true, force: true });
        }
      }
  } finally {
    server.closeAllConnections();
    server.close();
  }
}
