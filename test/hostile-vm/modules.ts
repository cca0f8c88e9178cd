import { execa } from 'execa';
import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';

/** A DKMS module that meets the kernel in its own way, and what must be said of it. */
export interface Case {
  name: string;
  /** C: what its init function does; it may return. */
  init?: string;
  /** C: what its exit function does; null: it has none. */
  exit?: string | null;
  /** C in front of both. */
  top?: string;
  /** Lines of dkms.conf besides. */
  conf?: string;
  /** Kernel modules of its own, each with an init function as `init`; absent: one. */
  several?: Record<string, string>;
  verdict: 'built' | 'failed';
  reason: RegExp | null;
}

const returns = (error: string): string => `return -${error};`;

export const CASES: readonly Case[] = [
  { name: 'quiet', verdict: 'built', reason: null },
  {
    name: 'errnos',
    several: {
      busy: returns('EBUSY'),
      perm: returns('EPERM'),
      io: returns('EIO'),
      notsupp: returns('EOPNOTSUPP'),
      nodev: 'printk(KERN_INFO "dk2b_nodev: nothing there\\n"); return -ENODEV;',
    },
    verdict: 'built',
    reason:
      /^(?=.*dk2b_busy: its init function returned EBUSY Device or resource busy)(?=.*returned EPERM Operation not permitted)(?=.*returned EIO )(?=.*returned EOPNOTSUPP )(?=.*dk2b_nodev: its init function returned ENODEV No such device: dk2b_nodev: nothing there)installs; not loaded: /,
  },
  {
    name: 'wants',
    top: 'static int port; module_param(port, int, 0444);',
    init: 'if (!port) return -EINVAL;',
    verdict: 'built',
    reason: /its init function returned EINVAL Invalid argument: it wants parameters \(port\)/,
  },
  {
    name: 'words',
    init: [
      'printk(KERN_WARNING "WARNING: no tuner found\\n");',
      'printk(KERN_ERR "BUG: in the manual, Oops\\n");',
      'printk(KERN_ERR "Call Trace: none\\n");',
    ].join(' '),
    verdict: 'built',
    reason: null,
  },
  {
    name: 'warns',
    init: 'WARN(1, "dk2b: this is new\\n");',
    verdict: 'built',
    reason: /^the kernel warns: dk2b_warns: WARNING: /,
  },
  {
    name: 'late',
    top: 'static void later(struct work_struct *w) { WARN_ON(1); } static DECLARE_DELAYED_WORK(work, later);',
    init: 'schedule_delayed_work(&work, HZ);',
    exit: 'cancel_delayed_work_sync(&work);',
    verdict: 'built',
    reason: /^the kernel warns: dk2b_late: WARNING: /,
  },
  {
    name: 'staging',
    top: 'MODULE_INFO(staging, "Y");',
    verdict: 'built',
    reason: /^the kernel warns: dk2b_staging: it taints the kernel: C, a staging driver$/,
  },
  { name: 'renamed', conf: 'DEST_MODULE_NAME[0]="dk2b_other_name"', verdict: 'built', reason: null },
  { name: 'permanent', exit: null, verdict: 'built', reason: null },
  {
    name: 'held',
    init: '__module_get(THIS_MODULE);',
    verdict: 'failed',
    reason: /^dk2b_held: it does not leave the kernel: .*in use/,
  },
  {
    name: 'symbol',
    top: 'extern int dk2b_nowhere(void);',
    init: 'return dk2b_nowhere();',
    conf: 'MAKE[0]="make KBUILD_MODPOST_WARN=1 -C $kernel_source_dir M=$dkms_tree/$PACKAGE_NAME/$PACKAGE_VERSION/build"',
    verdict: 'failed',
    reason: /^dk2b_symbol: .*Unknown symbol/,
  },
  {
    name: 'oopses',
    exit: '*(volatile int *)8 = 1;',
    verdict: 'failed',
    reason: /^dk2b_oopses: the kernel died: BUG: kernel NULL pointer dereference/,
  },
  {
    name: 'panics',
    init: 'panic("dk2b: I give up");',
    verdict: 'failed',
    reason:
      /^dk2b_panics: the kernel died while it was being loaded: .*Kernel panic - not syncing: dk2b: I give up/,
  },
  {
    name: 'hangs',
    init: 'for (;;) msleep(1000);',
    verdict: 'failed',
    reason: /^dk2b_hangs: its init function has not returned after \d+ s \(in .*msleep/,
  },
  {
    name: 'spins',
    exit: 'local_irq_disable(); for (;;) cpu_relax();',
    verdict: 'failed',
    reason: /^dk2b_spins: (its exit function has not returned|the machine hung while it was being unloaded)/,
  },
];

/** Writes the sources below `to`, one folder a module, and makes one tarball of them: one source with many modules. */
export async function sourcesOf(cases: readonly Case[], to: string): Promise<string> {
  for (const each of cases) {
    const folder = join(to, 'all', each.name);
    await mkdir(folder, { recursive: true });
    const inits = Object.entries(each.several ?? { [each.name]: each.init ?? '' });
    for (const [name, init] of inits) await writeFile(join(folder, `dk2b_${name}.c`), code(each, init));
    await writeFile(
      join(folder, 'Makefile'),
      `obj-m := ${inits.map(([name]) => `dk2b_${name}.o`).join(' ')}\n`,
    );
    const modules = inits.flatMap(([name], at) => [
      `BUILT_MODULE_NAME[${at}]="dk2b_${name}"`,
      `DEST_MODULE_LOCATION[${at}]="/updates/dkms"`,
    ]);
    const head = [`PACKAGE_NAME="dk2b-${each.name}"`, 'PACKAGE_VERSION="1.0"'];
    await writeFile(join(folder, 'dkms.conf'), [...head, ...modules, each.conf ?? '', ''].join('\n'));
  }
  const tarball = join(to, 'all.tar.gz');
  await execa('tar', ['-czf', tarball, '-C', to, ...cases.map(({ name }) => `all/${name}`)]);
  return tarball;
}

const code = ({ top = '', exit = '' }: Case, init: string): string => `#include <linux/module.h>
#include <linux/delay.h>
#include <linux/workqueue.h>
${top}
static int __init up(void)
{
	${init}
	return 0;
}
module_init(up);
${exit === null ? '' : `static void __exit down(void)\n{\n\t${exit}\n}\nmodule_exit(down);`}
MODULE_LICENSE("GPL");
`;
