// With `node --import` this file puts engine.mjs in the place of the command's engine; all else is the command as it is.
import { register } from 'node:module';

const engine = new URL('engine.mjs', import.meta.url).href;
const hooks = `export async function resolve(specifier, context, next) {
  const found = await next(specifier, context);
  const instead = found.url.endsWith('/dist/cli/services.js') && context.parentURL !== ${JSON.stringify(engine)};
  return instead ? { ...found, url: ${JSON.stringify(engine)} } : found;
}`;
register(`data:text/javascript,${encodeURIComponent(hooks)}`);
