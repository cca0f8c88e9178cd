/**
 * Whose fault it is, which decides the exit code (DESIGN: 0 built or skipped, 1 module failed, 2 usage or input,
 * 3 not found, 4 this host cannot, 5 guest or network, worth a retry, 130 interrupted).
 */
export type Fault = 'module' | 'usage' | 'not-found' | 'host' | 'transient' | 'interrupted';

export const EXIT_CODE: Record<Fault, number> = {
  module: 1,
  usage: 2,
  'not-found': 3,
  host: 4,
  transient: 5,
  interrupted: 130,
};

/** An error for a person: `message` says what happened and where, `hint` the next step. Never shown with a stack. */
export class Dkms2binError extends Error {
  override readonly name = 'Dkms2binError';
  readonly fault: Fault;
  readonly hint: string | undefined;

  constructor(fault: Fault, message: string, options: { hint?: string; cause?: unknown } = {}) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    this.fault = fault;
    this.hint = options.hint;
  }

  get exitCode(): number {
    return EXIT_CODE[this.fault];
  }
}

export function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
