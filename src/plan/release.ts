export { candidatesFor, checkRelease, parseRelease, type ParsedRelease } from '../distro/release.js';
