import type { PackageEntry } from '../formats/package.js';

/** Longest quotation of a file. */
const MAX_QUOTED = 160;
/** More than so many lines are counted, not listed. */
const MAX_HAZARDS = 40;
/** What is larger is no file of settings. */
const MAX_SETTINGS_BYTES = 1 << 20;

type File = Pick<PackageEntry, 'path' | 'type' | 'mode' | 'target' | 'bytes'>;

/**
 * What of a package's files could hurt the machine that installs it, a line each. It is not forbidden: modules come with such
 * files for good reasons, but who installs them should know. The lines hold no control and no hidden characters.
 */
export function hazardsOf(files: readonly File[]): string[] {
  const found = [...new Set(files.flatMap(hazardsOfFile))];
  const more = found.length - MAX_HAZARDS;
  return more > 0 ? [...found.slice(0, MAX_HAZARDS), `and ${more} more of this kind`] : found;
}

function hazardsOfFile(file: File): string[] {
  const { path, type, mode, target = '' } = file;
  const name = shown(path);
  const found: string[] = [];
  // What hides, turns the text around or looks like another letter.
  if (/[^\x20-\x7e]/.test(path)) found.push(`${name} has a name that can be read as another one`);
  if (type === 'special') return [...found, `${name} is a device or a pipe`];
  if (type === 'symlink') {
    if (leavesPackage(path, target)) found.push(`${name} is a link to ${shown(target)}`);
    return found;
  }
  if (mode & 0o6000) found.push(`${name} runs with the rights of its owner or group (setuid, setgid)`);
  if (mode & 0o002) found.push(`${name} can be written by everybody`);
  for (const [pattern, what] of PLACES) if (pattern.test(path)) found.push(`${name} ${what}`);
  const inSettings = (folder: string): boolean => path.includes(`/${folder}/`);
  if (!inSettings('modprobe.d') && !inSettings('rules.d')) return found;
  const bytes = file.bytes();
  if (bytes.length > MAX_SETTINGS_BYTES) return [...found, `${name} is too large to be looked at`];
  const text = bytes.toString('utf8').replaceAll(/\\\r?\n/g, ' ');
  const say = (what: string): number => found.push(`${name} ${what}`);
  if (inSettings('modprobe.d')) modprobeHazards(text, say);
  else udevHazards(text, say);
  return found;
}

/** What of a package's files other packages of the distro have, a line each: dpkg and rpm refuse such a file, or take it over. */
export function overlapLines(owned: readonly { path: string; package: string }[]): string[] {
  const lines = owned
    .slice(0, MAX_HAZARDS)
    .map(({ path, package: name }) => `${shown(path)} ${OF_OTHER} ${name}`);
  const more = owned.length - lines.length;
  return more > 0 ? [...lines, `and ${more} more of this kind`] : lines;
}

const OF_OTHER = "is a file of the distro's package";

/** Folders whose files a program reads by itself and obeys. */
const PLACES: [RegExp, string][] = [
  [/^\/etc\/cron(?:tab$|\.\w+\/)|^\/var\/spool\/cron\//, 'runs commands at set times'],
  [/^\/etc\/sudoers\.d\/|\/polkit-1\/(?:rules|actions|localauthority)/, 'gives rights to users or programs'],
  [/^\/etc\/pam\.d\/|\/security\/pam_|^\/etc\/ssh\//, 'has a say in who may log in'],
  [
    /^\/etc\/(?:profile|bash_completion|X11\/Xsession|xdg\/autostart)(?:\.d)?\//,
    'runs when somebody logs in',
  ],
  [
    /^\/etc\/(?:rc\w?|init)\.d\/|\/systemd\/(?:system|user)(?:-generators|-sleep|-shutdown)?\//,
    'can run programs when the machine starts or sleeps',
  ],
  [/^\/etc\/(?:apt|dpkg|dnf|yum|zypp)\/|\/dnf-plugins\//, 'changes how packages are installed'],
  [/^\/etc\/ld\.so\.conf\.d\//, 'changes where programs find libraries'],
  [
    /\/(?:initramfs-tools|dracut)\/|\/kernel\/(?:postinst|postrm|install)\.d\/|\/mkinitcpio/,
    'runs when a kernel is installed or an initramfs is made, or in it',
  ],
  [/\/dbus-1\/system/, 'opens a way to a service'],
  [
    /^\/etc\/(?:network\/if-[\w-]+|ppp\/ip[\w-]+|dhcp\/[\w-]+hooks|acpi|logrotate|update-motd)(?:\.d)?\/|\/NetworkManager\/dispatcher\.d\//,
    'runs when the network, the power or a log changes',
  ],
  [/^\/etc\/(?:default\/)?grub\.d\/|^\/etc\/default\/grub$/, 'changes how the machine boots'],
  [
    /\/(?:sysctl|tmpfiles|binfmt|depmod)\.d\//,
    'changes settings of the kernel, files of others, or which module is taken',
  ],
  [/^\/usr\/local\/s?bin\//, 'is found before a program of the distro with the same name'],
];

/** modprobe.d(5): commands in place of loading and unloading, and modules that are turned off. */
function modprobeHazards(text: string, say: (what: string) => void): void {
  for (const [, word, module = '', rest = ''] of text.matchAll(
    /^[ \t]*(install|remove|blacklist)[ \t]+(\S+)(.*)$/gm,
  )) {
    if (word === 'blacklist') say(`turns the module ${shown(module)} off`);
    else {
      const when = word === 'install' ? 'loading' : 'removing';
      say(`runs a command in place of ${when} ${shown(module)}: ${shown(rest)}`);
    }
  }
}

/** udev(7): rules that run programs. */
function udevHazards(text: string, say: (what: string) => void): void {
  for (const line of text.split('\n')) {
    if (/^\s*#/.test(line)) continue;
    for (const [, key = '', program = ''] of line.matchAll(
      /(RUN(?:\{\w+\})?|PROGRAM|IMPORT\{program\})\s*(?:\+=|:=|-=|==|!=|=)\s*[ei]?"((?:[^"\\]|\\.)*)/g,
    ))
      if (key !== 'RUN{builtin}') say(`runs a program when a device comes or goes: ${shown(program)}`);
  }
}

/** Whether a link leads out of its own folder: what lies there is not the package's. */
const leavesPackage = (path: string, target: string): boolean => {
  const folder = path.split('/').slice(1, -1);
  const up = target.split('/').filter((part) => part === '..').length;
  return target.startsWith('/') || up > Math.max(0, folder.length - 2);
};

/** A name or a command as it stands, but for characters that nobody would see. */
export const shown = (text: string): string =>
  [...text.trim()]
    .map((char) => (/[\x20-\x7e]/.test(char) ? char : `\\u{${char.codePointAt(0)?.toString(16) ?? ''}}`))
    .join('')
    .slice(0, MAX_QUOTED);
