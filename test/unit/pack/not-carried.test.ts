import { expect, it } from 'vitest';
import { dkmsHooks, packageHooks, scriptLines } from '../../../src/pack/not-carried.js';

// As dh_dkms writes it.
const DH_DKMS = `#!/bin/sh
set -e
# Automatically added by dh_dkms/3.0.10-6
DKMS_NAME=acpi-call
case "$1" in
	configure)
		for DKMS_POSTINST in /usr/lib/dkms/common.postinst; do
			if [ -f $DKMS_POSTINST ]; then
				$DKMS_POSTINST $DKMS_NAME
				break
			fi
		done
	;;
esac
# End automatically added section
`;

it('of scripts that only call dkms there is nothing to say', () => {
  expect(scriptLines([{ name: 'postinst', text: DH_DKMS }])).toEqual([]);
});

it('says what a script would have done, without its scaffolding', () => {
  const text = `${DH_DKMS}
if [ "$1" = configure ]; then
  # the group of those who may use it
  addgroup --system \\
    plugdev
  udevadm control --reload-rules || true
fi
exit 0
`;
  expect(scriptLines([{ name: 'postinst', text }])).toEqual([
    'postinst would run: addgroup --system      plugdev; udevadm control --reload-rules || true',
  ]);
});

it('shows no control characters, and counts what is too much', () => {
  const text = Array.from({ length: 9 }, (_, at) => `touch /x\u001b[3${at}m`).join('\n');
  const [line = ''] = scriptLines([{ name: 'postinst', text }]);
  expect(line).toMatch(/^postinst would run: touch \/x\\u\{1b\}\[30m; .*; and 3 more lines$/);
});

it('finds the scripts that dkms.conf names for the machine, and not those of the build', () => {
  const conf =
    'POST_INSTALL="scripts/load.sh $kernelver"\nPOST_BUILD="x"\n# POST_REMOVE="y"\nPOST_REMOVE=ldconfig\n';
  const read = (path: string) => (path === 'scripts/load.sh' ? '#!/bin/sh\nmodprobe foo\n' : undefined);
  expect(scriptLines(dkmsHooks(conf, read))).toEqual([
    'POST_INSTALL of dkms.conf would run: modprobe foo',
    'POST_REMOVE of dkms.conf would run: ldconfig',
  ]);
  const file = (path: string, text: string) => ({
    ...{ path, type: 'file' as const, mode: 0o644, size: text.length, bytes: () => Buffer.from(text) },
  });
  const files = [
    file('/usr/src/foo-1/dkms.conf', conf),
    file('/usr/src/foo-1/scripts/load.sh', 'modprobe bar'),
  ];
  expect(scriptLines(packageHooks(files))[0]).toContain('modprobe bar');
});
