import { checkModuleName, checkModuleVersion } from '../distro/package-names.js';
import { Dkms2binError } from '../model/errors.js';

/**
 * What a dkms.conf calls its module, as far as its text alone tells: it is shell, and never run here. What the shell would put
 * together, or assigns more than once, only the guest knows.
 */
export interface ConfNames {
  name?: string;
  version?: string;
}

/** `KEY=value` in each of the ways in which a shell takes it as it stands. */
const assigned = (conf: string, key: string): { given: boolean; value?: string } => {
  const all = conf.match(new RegExp(`(?<![\\w\${])${key}\\+?=`, 'g')) ?? [];
  const plain = new RegExp(
    `^[ \\t]*(?:export[ \\t]+)?${key}=(?:"([^"$\`\\\\\\n]*)"|'([^'\\n]*)'|([^\\s"'$\`\\\\;&|<>()]*))[ \\t\\r]*(?:[ \\t;]#?.*)?$`,
    'm',
  ).exec(conf);
  if (all.length !== 1 || !plain) return { given: all.length > 0 };
  const [, double, single, bare] = plain;
  return { given: true, value: (double ?? single ?? bare ?? '').replace(/\r$/, '') };
};

/** Something that may set variables out of sight: a sourced file, eval and the like. */
const OUT_OF_SIGHT = /(?:^|[\s;&|({])(?:\.|source|eval|declare|typeset|read|mapfile|printf)[ \t]/m;

/**
 * What the text of a dkms.conf says for certain. Throws fault `usage` for a name or version that cannot be used, and for a text
 * that cannot name its module at all; `where` says whose text it is.
 */
export function readConfNames(conf: string, where: string): ConfNames {
  // A link in an archive, for example, which leads to the text in the guest.
  if (conf.trim() === '') return {};
  const code = conf.replaceAll(/^[ \t]*#.*$/gm, '');
  const name = assigned(code, 'PACKAGE_NAME');
  const version = assigned(code, 'PACKAGE_VERSION');
  if (name.value === '' || (!name.given && !OUT_OF_SIGHT.test(code))) {
    throw new Dkms2binError('usage', `dkms.conf without PACKAGE_NAME: ${where}`, {
      hint: 'Every dkms.conf must define PACKAGE_NAME and PACKAGE_VERSION.',
    });
  }
  return {
    ...usable('PACKAGE_NAME', name.value, where),
    ...usable('PACKAGE_VERSION', version.value, where),
  };
}

function usable(
  key: 'PACKAGE_NAME' | 'PACKAGE_VERSION',
  value: string | undefined,
  where: string,
): ConfNames {
  if (value === undefined || value === '') return {};
  if (/^[@#].*[@#]$/.test(value)) {
    throw new Dkms2binError('usage', `${key} in ${where} is a placeholder, ${JSON.stringify(value)}`, {
      hint: `The build of its package fills it in. Write the ${key === 'PACKAGE_NAME' ? 'name' : 'version'} into dkms.conf.`,
    });
  }
  try {
    return key === 'PACKAGE_NAME' ? { name: checkModuleName(value) } : { version: checkModuleVersion(value) };
  } catch (error) {
    if (!(error instanceof Dkms2binError)) throw error;
    throw new Dkms2binError('usage', `${error.message} (${where})`, {
      ...(error.hint === undefined ? {} : { hint: error.hint }),
      cause: error,
    });
  }
}
