/** The tool's own environment variables, for the reference. */
export const VARIABLES = {
  DKMS2BIN_CACHE: 'Images, layers and indexes; default `~/.cache/dkms2bin`. May be deleted at any time',
  DKMS2BIN_CATALOGUE:
    'Folder of `*.yaml` files with rows for distros of your own, in the form of those in `images/`',
  DKMS2BIN_NO_SNAPSHOT:
    'When set, VMs boot instead of being cloned from a memory snapshot: to compare the two',
  DKMS2BIN_QUEUE_PASSWORD: 'Password of the Redis that `--queue` names',
  DKMS2BIN_REPO_PASSPHRASE: 'Passphrase of the key that `--repo-key` names',
  DKMS2BIN_SIGN_PASSPHRASE: 'Passphrase of the signing key, or PIN of its token',
  DKMS2BIN_STATE: 'Runs, including kept ones, and logs of `--validate`; default `~/.local/state/dkms2bin`',
  DKMS2BIN_TRACE: '`1` shows the stack of a bug in dkms2bin',
} as const;

/** Variables of other standards that the tool heeds, for the reference. Empty ones count as not set. */
export const STANDARD_VARIABLES = {
  AWS_ENDPOINT_URL: 'Server of an `s3://` store that is not Amazon',
  AWS_ENDPOINT_URL_S3: 'The same, for S3 alone',
  AWS_DEFAULT_REGION: 'Region of an `s3://` store when `AWS_REGION` is not set',
  AWS_REGION: 'Region of an `s3://` store',
  CI: 'When set, progress is printed as plain lines',
  GITHUB_ACTIONS: '`true` makes `matrix` print annotations',
  NODE_EXTRA_CA_CERTS:
    'File with certificates (PEM) of further authorities that vouch for https servers: here, and in guests while packages are installed',
  PATH: 'Where host tools are looked for',
  SOURCE_DATE_EPOCH: 'Seconds since 1970 that packages and repositories carry as their date',
  SSH_AUTH_SOCK: 'Agent with the keys for git repositories over ssh',
  TERM: 'Terminal type, which `login` hands to the guest; `dumb` switches the live display off',
  USER: 'Name of the user, for hints',
  XDG_CACHE_HOME: 'Parent of the default `DKMS2BIN_CACHE`',
  XDG_RUNTIME_DIR: 'Parent of the folders of sockets; else the folder for temporary files',
  XDG_STATE_HOME: 'Parent of the default `DKMS2BIN_STATE`',
  all_proxy: 'Proxy for all URLs that no other variable names one for; also `ALL_PROXY`',
  http_proxy: 'Proxy for `http://` URLs',
  https_proxy: 'Proxy for `https://` URLs; also `HTTPS_PROXY`',
  no_proxy: 'Hosts and domains that are reached without a proxy, or `*`; also `NO_PROXY`',
} as const;

/** Value of a variable of the tool; an empty one counts as not set. */
export function variable(
  name: keyof typeof VARIABLES,
  env: NodeJS.ProcessEnv = process.env,
): string | undefined {
  return env[name] || undefined;
}

/** Value of a standard variable, in lower case or capitals as its entry says; an empty one counts as not set. */
export function standardVariable(
  name: keyof typeof STANDARD_VARIABLES,
  env: NodeJS.ProcessEnv = process.env,
): string | undefined {
  // `HTTP_PROXY` is left out, as by curl: a CGI script gets it from whoever sends the header Proxy.
  const capitals = name === 'http_proxy' ? undefined : env[name.toUpperCase()];
  return env[name] || capitals || undefined;
}

/** Reads a variable of the tool and takes it out of the environment, so that no process started later inherits it. */
export function takeVariable(name: keyof typeof VARIABLES): string | undefined {
  const value = process.env[name];
  delete process.env[name];
  return value;
}

/**
 * What children need of this process's environment. The rest stays here: passwords and access keys of this tool and of others,
 * which everybody who may look at a child's environment could read.
 */
const INHERITED = [
  /^(?:PATH|HOME|USER|LOGNAME|SHELL|LANG|LANGUAGE|LC_[A-Z]+|TERM|COLORTERM|TZ|TMPDIR|XDG_[A-Z_]+|SOURCE_DATE_EPOCH)$/,
  // Where openssl finds its modules, and the library of a token.
  /^(?:OPENSSL_(?:CONF|ENGINES|MODULES)|SSL_CERT_(?:FILE|DIR)|[A-Z0-9_]*PKCS11_[A-Z_]*(?:MODULE|PATH|CONF)|SOFTHSM2_CONF)$/,
];
const PROXIES = /^(?:https?_proxy|HTTPS_PROXY|(?:all|no)_proxy|(?:ALL|NO)_PROXY)$/;

/**
 * The environment of a child process: what it needs of this one, and what its caller adds. Proxies, whose URLs may hold a
 * password, only for a child that downloads (`network`).
 */
export function childEnvironment(
  more: Readonly<Record<string, string | undefined>> = {},
  network = false,
): NodeJS.ProcessEnv {
  const forms = network ? [...INHERITED, PROXIES] : INHERITED;
  const kept = Object.entries(process.env).filter(([name]) => forms.some((form) => form.test(name)));
  return { ...Object.fromEntries(kept), ...more };
}

/** The whole environment of this process. */
export const environment = (): NodeJS.ProcessEnv => process.env;
