// Usage: node scripts/install-package.mjs FOLDER
// Packs the checkout (dist/ must be built) and installs the tarball with its dependencies into FOLDER, in the versions of
// package-lock.json and from npm's cache where it has them. Prints the path of the tarball. What has to be compiled comes from the
// checkout.
import { execFileSync } from 'node:child_process';
import { cpSync, existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = fileURLToPath(new URL('..', import.meta.url));
const folder = resolve(process.argv[2]);
mkdirSync(folder, { recursive: true });
const npm = (cwd, ...args) =>
  execFileSync('npm', args, { cwd, encoding: 'utf8', stdio: ['ignore', 'pipe', 'inherit'] });

const [{ filename }] = JSON.parse(
  npm(root, 'pack', '--ignore-scripts', '--json', '--silent', '--pack-destination', folder),
);
const lock = JSON.parse(readFileSync(join(root, 'package-lock.json'), 'utf8'));
const { '': self, ...packages } = lock.packages;
const installed = Object.entries(packages).filter(([, { dev }]) => !dev);
const own = { name: 'user', version: '1.0.0', private: true, dependencies: { dkms2bin: `file:${filename}` } };
writeFileSync(join(folder, 'package.json'), JSON.stringify(own));
writeFileSync(
  join(folder, 'package-lock.json'),
  JSON.stringify({
    ...{ name: own.name, version: own.version, lockfileVersion: 3, requires: true },
    packages: {
      '': own,
      'node_modules/dkms2bin': {
        ...{ version: self.version, resolved: `file:${filename}` },
        ...{ dependencies: self.dependencies, bin: self.bin, engines: self.engines },
      },
      ...Object.fromEntries(installed),
    },
  }),
);
npm(folder, 'ci', '--prefer-offline', '--ignore-scripts', '--no-audit', '--no-fund', '--loglevel=error');
const compiled = 'node_modules/node-pty/build';
if (existsSync(join(root, compiled)))
  cpSync(join(root, compiled), join(folder, compiled), { recursive: true });
console.log(join(folder, filename));
