import { Dkms2binError } from '../../model/errors.js';
import type { Guest, ScriptRun } from '../guest.js';
import { readEnd, valuesOf } from '../protocol.js';
import { sourceVariables, type PushedSource } from './pushed-source.js';

/**
 * Has the guest's apt download a source's package and all that it depends on, while there is a network. Throws what the
 * program's exit code means; `called` is what the user calls the source; `proxy`, and the certificates of further
 * `authorities`, are for the downloads. Resolves to the path in the guest of a repository's package, null for a source that
 * was pushed.
 */
export async function fetchSource(
  guest: Guest,
  source: PushedSource,
  {
    called,
    proxy = '',
    authorities = '',
  }: { called: string; proxy?: string | undefined; authorities?: string },
  run: ScriptRun,
): Promise<string | null> {
  const output = await guest.script(
    'fetch-source.sh',
    { ...sourceVariables(source), PROXY: proxy, AUTHORITIES: authorities },
    run,
  );
  readEnd(output, ['DONE'], (why) => {
    const near = valuesOf(output, 'near');
    // apt's words, as in ` vendor-dkms : Depends: vendor-common but it is not installable`.
    const [, lacking] = /Depends: ([a-z0-9][a-z0-9+.-]*)(?: \([^)]*\))? but /.exec(why) ?? [];
    const hints = [
      ...(near.length > 0 ? [`Similar names: ${near.join(', ')}`] : []),
      ...(lacking === undefined
        ? []
        : [`Give the .deb file of ${lacking} as well: --build-package ./${lacking}.deb`]),
    ];
    return { message: `${called}: ${why}`, hint: hints.join('. ') || undefined };
  });
  if (source.kind !== 'repo') return null;
  const [file = '', ...more] = valuesOf(output, 'file');
  if (more.length > 0 || !/^\/var\/cache\/apt\/archives\/[A-Za-z0-9][A-Za-z0-9+._~%-]*\.deb$/.test(file))
    throw new Dkms2binError('transient', `The guest does not say where it has put ${called}`);
  return file;
}
