/** Whose fault it is, which decides the exit code. */
export type Fault = 'module' | 'usage' | 'not-found' | 'host' | 'transient' | 'interrupted';

/** Every way in which a command ends. The first word is the fault of an error, or what else it is. */
export const EXIT_CODES = [
  {
    of: 'ok',
    code: 0,
    meaning: 'all packages are built, or the module itself says that it is not for this kernel (skipped)',
  },
  {
    of: 'module',
    code: 1,
    meaning:
      'a module failed: it does not compile or does not load. inspect: file and provenance do not match; prove: a package does not install from the repository, or a module does not load; bisect: more than one kernel can be the first bad one',
  },
  { of: 'usage', code: 2, meaning: 'wrong usage or input' },
  { of: 'not-found', code: 3, meaning: 'kernel, image or package not found' },
  {
    of: 'host',
    code: 4,
    meaning: 'this machine cannot do it: a tool is missing, no space is left (see dkms2bin doctor)',
  },
  { of: 'transient', code: 5, meaning: 'a fault of the VM or the network, worth another try' },
  { of: 'work-to-do', code: 6, meaning: 'refresh --dry-run: there is something to build' },
  { of: 'bug', code: 70, meaning: 'a bug in dkms2bin' },
  { of: 'interrupted', code: 130, meaning: 'interrupted' },
] as const satisfies readonly { of: Fault | 'ok' | 'work-to-do' | 'bug'; code: number; meaning: string }[];

/** The codes by what ended the command. */
export const EXIT = Object.fromEntries(EXIT_CODES.map(({ of, code }) => [of, code])) as {
  readonly [E in (typeof EXIT_CODES)[number] as E['of']]: E['code'];
};

/** Those of faults. */
export const EXIT_CODE: Readonly<Record<Fault, number>> = { ...EXIT };

/**
 * Exit codes from the one to report first, when there are several at once. A failed module is a true answer, so it comes
 * last: any other code says that some cell has no answer yet, and why.
 */
export const EXIT_ORDER = [130, 4, 3, 2, 5, 1] as const;

/** Text whose URLs have no user and no password, in which there may be an @ as well. */
export const withoutPasswords = (text: string): string =>
  text.replaceAll(/\b([a-z][a-z0-9+.-]*:\/\/)[^\s/?#"'<>]*@/gi, '$1');

/** An error for a person: `message` says what happened and where, `hint` the next step. Never shown with a stack, nor a URL with its password. */
export class Dkms2binError extends Error {
  override readonly name = 'Dkms2binError';
  readonly fault: Fault;
  readonly hint: string | undefined;

  constructor(fault: Fault, message: string, options: { hint?: string; cause?: unknown } = {}) {
    super(withoutPasswords(message), options.cause === undefined ? undefined : { cause: options.cause });
    this.fault = fault;
    this.hint = options.hint === undefined ? undefined : withoutPasswords(options.hint);
  }

  get exitCode(): number {
    return EXIT_CODE[this.fault];
  }
}

/** A guest is no more, by what ran in it: its kernel panicked or reset the machine, or it says nothing any more. */
export class GuestDeath extends Dkms2binError {
  constructor(
    readonly how: 'died' | 'silent',
    message: string,
    /** What the console says of it, on one line; '' for nothing. */
    readonly words: string,
    options: { hint?: string; cause?: unknown } = {},
  ) {
    super('transient', message, options);
  }
}

/** What any error says, of other programs' too: without the passwords of its URLs. */
export function messageOf(error: unknown): string {
  return withoutPasswords(error instanceof Error ? error.message : String(error));
}
