import type { PackageEntry } from '../formats/package.js';
import { shown } from './hazards.js';

/** More commands of one script are counted, not listed. */
const MAX_COMMANDS = 6;
const MAX_LINE = 120;

/** A script of a source package that no package of ours carries. */
export interface Script {
  /** `postinst`, `POST_INSTALL (scripts/udev.sh)`. */
  name: string;
  text: string;
}

/**
 * What the scripts would have done, a line for each that does more than dkms and debhelper call for by themselves. Empty when
 * there is nothing that a target would miss.
 */
export function scriptLines(scripts: readonly Script[]): string[] {
  return scripts.flatMap(({ name, text }) => {
    const commands = commandsOf(text);
    if (commands.length === 0) return [];
    const listed = commands.slice(0, MAX_COMMANDS).map((each) => shortened(each));
    const more = commands.length - listed.length;
    return [`${shown(name)} would run: ${listed.join('; ')}${more > 0 ? `; and ${more} more lines` : ''}`];
  });
}

const shortened = (line: string): string => {
  const text = shown(line);
  return text.length > MAX_LINE ? `${text.slice(0, MAX_LINE)}…` : text;
};

/** Words that hold commands together, and what does nothing by itself. */
const STRUCTURE =
  /^(?:case\b.*\bin|esac|if\b.*|elif\b.*|else|fi|then|do|done|for\b.*|while\b.*|\w[\w|*" -]*\)|;;|\{|\}|\w+\s*\(\)\s*\{?|set [-+][\w ]+|exit(?: \d+)?|return(?: \d+)?|:|true|shift|\*\)|[A-Za-z_]\w*=\S*|echo\b.*|printf\b.*)[\s;]*$/;

/** What dkms's packages do for dkms: register, build, remove. */
const OF_DKMS =
  /\bdkms\b|\/usr\/lib\/dkms\/|common\.postinst|DKMS_\w+|postinst_found|dh_installdeb|dpkg-maintscript-helper/;

/** The commands of a shell script, without those that debhelper's dkms part adds. */
function commandsOf(text: string): string[] {
  const own = text
    .replaceAll(/\\\r?\n/g, ' ')
    .replaceAll(/^# Automatically added by dh_dkms[\s\S]*?^# End automatically added section$/gm, '');
  const lines = own.split('\n').map((line) => line.trim());
  return lines.filter(
    (line) => line !== '' && !line.startsWith('#') && !STRUCTURE.test(line) && !OF_DKMS.test(line),
  );
}

/** Settings of dkms.conf that run a script when a module is installed or removed. POST_BUILD and its like run in the build. */
const HOOKS = /^[ \t]*(PRE_INSTALL|POST_INSTALL|POST_REMOVE)=(["']?)([^"'\n]*)\2/gm;

/** The scripts that a dkms.conf names for the machine where the module is installed; `read` gives a file of the source. */
export function dkmsHooks(conf: string, read: (path: string) => string | undefined): Script[] {
  return [...conf.matchAll(HOOKS)].flatMap(([, key = '', , value = '']) => {
    const [file = ''] = value.trim().split(/\s+/);
    if (file === '') return [];
    const text = read(file.replace(/^\.\//, ''));
    return [{ name: `${key} of dkms.conf`, text: text ?? value.trim() }];
  });
}

/** The scripts that a package's dkms.conf files name for the machine itself. */
export function packageHooks(files: readonly PackageEntry[]): Script[] {
  return files.flatMap((conf) => {
    const [, folder] = /^(\/usr\/src\/[^/]+)\/dkms\.conf$/.exec(conf.path) ?? [];
    if (folder === undefined || conf.type !== 'file') return [];
    return dkmsHooks(conf.bytes().toString('utf8'), (path) =>
      files
        .find((each) => each.path === `${folder}/${path}` && each.type === 'file')
        ?.bytes()
        .toString('utf8'),
    );
  });
}
