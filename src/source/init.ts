import { stat, writeFile } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import { Dkms2binError, messageOf } from '../model/errors.js';
import { confOfFolder, type SourceMeans } from './prepared.js';

export interface InitResult {
  path: string;
  conf: string;
  /** What it was made of, in a line. */
  said: string;
}

/** Writes down the dkms.conf that a build of this folder would be given. Throws fault `usage` where there is one already. */
export async function initFolder(
  text: string,
  { cwd, ...means }: Pick<SourceMeans, 'moduleVersion' | 'signal'> & { cwd: string },
): Promise<InitResult> {
  const folder = resolve(cwd, text);
  const info = await stat(folder).catch(() => null);
  if (!info?.isDirectory()) throw new Dkms2binError('usage', `No such folder: ${text}`);
  const found = await confOfFolder(text, folder, means);
  const path = join(folder, found.folder, 'dkms.conf');
  if (found.said === null || found.asGiven) {
    throw new Dkms2binError('usage', `${path} is there already, and complete`, {
      hint: `Build it: dkms2bin --dkms ${text}`,
    });
  }
  const conf = found.tree.text('dkms.conf');
  if (conf === undefined) {
    throw new Dkms2binError('usage', `${text} holds several modules, each with a dkms.conf of its own`, {
      hint: 'Give the folder of one of them.',
    });
  }
  try {
    await writeFile(path, conf, { flag: 'wx' });
  } catch (error) {
    const there = (error as NodeJS.ErrnoException).code === 'EEXIST';
    throw new Dkms2binError(
      'usage',
      there ? `${path} is there already` : `Cannot write ${path}: ${messageOf(error)}`,
      {
        ...(there && {
          hint: 'Its placeholders are filled when it is built; change it by hand, or remove it first.',
        }),
        cause: error,
      },
    );
  }
  return { path, conf, said: found.said };
}
