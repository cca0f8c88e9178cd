export {
  kernelsOf,
  modulesFor,
  readOfferedPackages,
  type Offer,
  type OfferedPackage,
} from './offered-packages.js';
export { publishRepository, type RepositoryOptions, type RepositoryResult } from './publish.js';
export { sameModulesOf } from './same-modules.js';
export { serveRepository, sourcesFor, type Served, type Sources } from './serve.js';
export { loadSigningKey, type Passphrase, type SigningKey } from './signing.js';
