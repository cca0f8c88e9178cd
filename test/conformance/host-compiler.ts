import { cpSync, mkdirSync } from 'node:fs';
import { join } from 'node:path';
import type { Guest } from '../../src/guest/guest.js';

const GUEST = join(import.meta.dirname, '../../cloud-init/guest');
const OWN = '/usr/local/lib/dkms2bin';

/** Puts the compiler's stand-in into a root folder as settle.sh does, without answers to probes. */
export async function installStandIn(guest: Guest, upper: string): Promise<void> {
  const to = join(upper, 'up', OWN);
  mkdirSync(to, { recursive: true });
  for (const name of ['cc-probes.c', 'cc-host.c', 'probes.c', 'cc-host.h', 'probes.h'])
    cpSync(join(GUEST, name), join(to, name));
  // What changes after the stamp is not as the host has it: nothing has until then.
  await guest.text(
    `set -e; cd ${OWN}; mkdir cc probes; gcc -O2 -o cc-probes cc-probes.c cc-host.c probes.c
    for each in /usr/bin/gcc /usr/bin/gcc-[0-9]* /usr/bin/*-linux-gnu-gcc*; do [ ! -x "$each" ] || ln -s ${OWN}/cc-probes "cc/\${each##*/}"; done
    sleep 1; touch cc-stamp`,
  );
}
