// See update-images.
import { findRow, loadCatalogue } from '../dist/distro/catalogue.js';
import { updateImages } from '../dist/environment/image-update.js';

const args = process.argv.slice(2);
const check = args.includes('--check');
const ids = args.filter((arg) => arg !== '--check');
try {
  let rows = (await loadCatalogue()).filter(({ overlay }) => !overlay);
  if (ids.length > 0) rows = ids.map((id) => findRow(rows, id));
  const limits = { retries: 1, backoffMs: 500, stallMs: 20_000 };
  for (const { id, arch, state, says } of await updateImages(rows, {
    emit: () => undefined,
    limits,
    write: !check,
  })) {
    console.log(`${id} ${arch}: ${state}${state === 'same' ? '' : `, ${says}`}`);
    if (state === 'renamed' || state === 'refused' || (state === 'changed' && check)) process.exitCode = 1;
  }
} catch (error) {
  console.error(`update-images: ${error.message}${error.hint ? `\n  ${error.hint}` : ''}`);
  process.exitCode = 2;
}
