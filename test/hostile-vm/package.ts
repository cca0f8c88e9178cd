import { readFileSync } from 'node:fs';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { makeDeb } from '../../src/pack/deb.js';
import { FIXTURES } from '../tool.js';

/** The module looks for what an earlier build has left on its machine, and does not load there. */
const SOURCE = readFileSync(join(FIXTURES, 'tiny', 'dk2b_tiny.c'), 'utf8')
  .replaceAll('dk2b_tiny', 'dk2b_hostile')
  .replace('#include <linux/module.h>\n', '#include <linux/module.h>\n#include <linux/namei.h>\n')
  .replace(
    /pr_info\(.*\n/,
    `static const char *const traces[] = { "/etc/dk2b-was-here", "/boot/dk2b-was-here", "/usr/src/dk2b-was-here" };
	struct path path;
	int i;

	for (i = 0; i < ARRAY_SIZE(traces); i++)
		if (!kern_path(traces[i], 0, &path)) {
			path_put(&path);
			return -EEXIST;
		}
`,
  );

export const EXTRA = '/etc/modprobe.d/dk2b-hostile.conf';

/**
 * A .deb of a DKMS source named `dk2b-<name>` whose build runs these shell lines as root before it compiles. BUILD_PID is the
 * program of ours that runs dkms.
 */
export async function hostilePackage(dir: string, name: string, lines: string): Promise<string> {
  const file = (path: string, text: string, mode = 0o644) => ({ path, mode, bytes: Buffer.from(text) });
  const at = `/usr/src/dk2b-${name}-1.0`;
  const build = '$dkms_tree/$PACKAGE_NAME/$PACKAGE_VERSION/build';
  const bytes = makeDeb({
    control: {
      ...{ package: `dk2b-${name}-dkms`, version: '1.0-1', architecture: 'all' },
      ...{ maintainer: 'Tests <tests@localhost>', section: 'kernel', priority: 'optional' },
      description: { synopsis: 'attacks', lines: [] },
    },
    files: [
      file(
        `${at}/dkms.conf`,
        [
          `PACKAGE_NAME="dk2b-${name}"`,
          'PACKAGE_VERSION="1.0"',
          'BUILT_MODULE_NAME[0]="dk2b_hostile"',
          'DEST_MODULE_LOCATION[0]="/updates/dkms"',
          `MAKE[0]="bash ./attack.sh; make -C $kernel_source_dir M=${build} modules"`,
          'CLEAN="true"',
          '',
        ].join('\n'),
      ),
      file(`${at}/Makefile`, 'obj-m := dk2b_hostile.o\n'),
      file(`${at}/dk2b_hostile.c`, SOURCE),
      file(
        `${at}/attack.sh`,
        `BUILD_PID=$(pgrep -of /var/lib/dkms2bin/build.sh)\nexport BUILD_PID\n${lines}\nexit 0\n`,
        0o755,
      ),
      file(EXTRA, 'options dk2b_hostile x=1\n', 0o640),
    ],
    scripts: {},
    mtime: 1_700_000_000,
  });
  const path = join(dir, `dk2b-${name}.deb`);
  await writeFile(path, bytes);
  return path;
}
