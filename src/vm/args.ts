import type { Arch } from '../model/cell.js';

/** Everything QEMU needs to know, resolved: `qemuArgs` is a pure function of it. Paths are absolute. */
export interface VmConfig {
  arch: Arch;
  accel: 'kvm' | 'tcg';
  /** CPU model, as the accelerator probe found it to work. */
  cpu: string;
  cpus: number;
  memoryMiB: number;
  /** The run's own qcow2 overlay. */
  disk: string;
  /** NoCloud seed ISO. */
  seed: string;
  boot: { kind: 'loader'; firmware: 'bios' } | UefiBoot | DirectBoot;
  /** Guest memory: the VM's own, or a file that is written through (a snapshot being made) or only read (a clone, QEMU 8.2). */
  memory: { kind: 'own' } | { kind: 'file'; path: string; shared: boolean };
  /** What of the host's network QEMU leads to: nothing, a port of 127.0.0.1 to the guest's sshd, or all of it besides. */
  network: Network;
  /** Starts stopped and waits for the device state of a snapshot. */
  incoming: boolean;
  qmpSocket: string;
  consoleSocket: string;
  /** Where QEMU writes what the console prints. */
  consolePipe: string;
  /** Host end of the guest agent's virtio-serial port. */
  channelSocket: string;
  /** Host end of the port by which the guest's compiler asks for compilations. */
  compilerSocket: string;
  /** Host end of the guest's connections to NET.management.forward; null: there is no such address. */
  forwardSocket: string | null;
}

export type Network = 'none' | 'login' | 'egress';

export interface UefiFiles {
  code: string;
  /** In a VM's configuration its own writable copy. */
  vars: string;
}

interface UefiBoot extends UefiFiles {
  kind: 'loader';
  firmware: 'uefi';
}

export interface DirectBoot {
  kind: 'direct';
  vmlinuz: string;
  initrd: string;
  cmdline: string;
  /** Starts the kernel as a UEFI program; without it, QEMU's own BIOS does. */
  uefi?: UefiFiles;
}

/** MAC addresses let the seed's network configuration name each NIC. */
export const MAC = { management: '52:54:00:64:6b:01', egress: '52:54:00:64:6b:02' };
/** Fixed addresses of QEMU's user networks: no DHCP to wait for. */
export const NET = {
  management: { net: '10.0.3.0/24', guest: '10.0.3.15', forward: '10.0.3.100' },
  egress: { net: '10.0.2.0/24', guest: '10.0.2.15', gateway: '10.0.2.2', dns: '10.0.2.3' },
};

/** What an architecture's VMs differ in. */
const BOARD: Record<Arch, { machine: string; devices: string[] }> = {
  x86_64: {
    machine: 'q35,vmport=off',
    // vmgenid makes a resumed guest kernel reseed its random numbers.
    devices: ['pvpanic', 'vmgenid,guid=auto'],
  },
  // There is no vmgenid without ACPI; the agent's entropy reseeds a clone here.
  aarch64: { machine: 'virt,gic-version=max', devices: ['pvpanic-pci'] },
};

/** QEMU reads a comma as the end of a value. */
function escapeValue(value: string): string {
  return value.replaceAll(',', ',,');
}

/** The file is opened for reading alone, and what the guest writes is its own. */
const READ_ONLY = 'share=off,readonly=on,rom=off';

const machine = (c: VmConfig): string[] => [
  ...(c.memory.kind === 'file'
    ? [
        '-object',
        `memory-backend-file,id=ram,size=${c.memoryMiB}M,mem-path=${escapeValue(c.memory.path)},${c.memory.shared ? 'share=on' : READ_ONLY}`,
      ]
    : []),
  '-machine',
  `${BOARD[c.arch].machine},accel=${c.accel},usb=off${c.memory.kind === 'file' ? ',memory-backend=ram' : ''}`,
  '-cpu',
  c.cpu,
  '-smp',
  String(c.cpus),
  '-m',
  `${c.memoryMiB}M`,
];

/** What every QEMU starts with. */
export const CONFINEMENT = [
  '-nodefaults',
  '-no-user-config',
  '-display',
  'none',
  '-no-reboot',
  '-sandbox',
  'on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny',
];

const control = (c: VmConfig): string[] => [
  '-chardev',
  `socket,id=qmp,path=${escapeValue(c.qmpSocket)},server=on,wait=off`,
  '-mon',
  'chardev=qmp,mode=control',
];

const consoleDevice = (c: VmConfig): string[] => [
  '-chardev',
  `socket,id=console,path=${escapeValue(c.consoleSocket)},server=on,wait=off,logfile=${escapeValue(c.consolePipe)},logappend=on`,
  '-serial',
  'chardev:console',
];

const channel = (c: VmConfig): string[] => [
  '-chardev',
  `socket,id=channel,path=${escapeValue(c.channelSocket)},server=on,wait=off`,
  '-device',
  'virtio-serial-pci',
  '-device',
  'virtserialport,chardev=channel,name=dkms2bin.0',
  '-chardev',
  `socket,id=compiler,path=${escapeValue(c.compilerSocket)},server=on,wait=off`,
  '-device',
  'virtserialport,chardev=compiler,name=dkms2bin.cc',
];

const disk = (c: VmConfig): string[] => [
  '-drive',
  // The overlay is thrown away or, for a layer, synced by the host before it is published: cache=unsafe is safe here.
  `if=none,id=root,format=qcow2,cache=unsafe,discard=unmap,file=${escapeValue(c.disk)}`,
  '-device',
  // With -kernel QEMU's own loader takes index 0.
  `virtio-blk-pci,drive=root${c.boot.kind === 'loader' ? ',bootindex=0' : ''}`,
];

const seed = (c: VmConfig): string[] => [
  '-drive',
  `if=none,id=seed,format=raw,readonly=on,file=${escapeValue(c.seed)}`,
  '-device',
  'virtio-blk-pci,drive=seed',
];

/** Port 80 of an address that exists for this alone leads to a socket of the host's, out of a network that leads nowhere else. */
const forward = (c: VmConfig): string[] =>
  c.forwardSocket === null
    ? []
    : ['-chardev', `socket,id=forward,path=${escapeValue(c.forwardSocket)},server=on,wait=off`];

const network = (c: VmConfig): string[] => [
  '-netdev',
  [
    `user,id=management,net=${NET.management.net},ipv6=off,restrict=on`,
    ...(c.network === 'none' ? [] : [`hostfwd=tcp:127.0.0.1:0-${NET.management.guest}:22`]),
    ...(c.forwardSocket === null ? [] : [`guestfwd=tcp:${NET.management.forward}:80-chardev:forward`]),
  ].join(','),
  '-device',
  `virtio-net-pci,netdev=management,mac=${MAC.management},romfile=`,
  '-netdev',
  // The card stays: a clone has the devices that its snapshot was made with.
  `user,id=egress,net=${NET.egress.net},ipv6=off${c.network === 'egress' ? '' : ',restrict=on'}`,
  '-device',
  `virtio-net-pci,id=egressnic,netdev=egress,mac=${MAC.egress},romfile=`,
];

const extras = (c: VmConfig): string[] =>
  ['virtio-rng-pci', ...BOARD[c.arch].devices].flatMap((device) => ['-device', device]);

const incoming = (c: VmConfig): string[] => (c.incoming ? ['-incoming', 'defer'] : []);

const uefi = ({ code, vars }: UefiFiles): string[] => [
  '-drive',
  `if=pflash,unit=0,format=raw,readonly=on,file=${escapeValue(code)}`,
  '-drive',
  `if=pflash,unit=1,format=raw,file=${escapeValue(vars)}`,
];

const boot = ({ boot: b }: VmConfig): string[] => {
  if (b.kind === 'direct') {
    const kernel = ['-kernel', b.vmlinuz, '-initrd', b.initrd, '-append', b.cmdline];
    return b.uefi ? [...uefi(b.uefi), ...kernel] : kernel;
  }
  return b.firmware === 'bios' ? [] : uefi(b);
};

/** QEMU's argument list for one VM. */
export function qemuArgs(config: VmConfig): string[] {
  return [
    ...machine(config),
    ...CONFINEMENT,
    ...control(config),
    ...consoleDevice(config),
    ...channel(config),
    ...disk(config),
    ...seed(config),
    ...forward(config),
    ...network(config),
    ...extras(config),
    ...boot(config),
    ...incoming(config),
  ];
}
