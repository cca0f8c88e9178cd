import { Dkms2binError } from '../../model/errors.js';
import type { Emit } from '../../model/events.js';

export interface DownloadLimits {
  /** Silence of the server, in ms, that counts as a cut connection. A trickle is no silence. */
  stallMs: number;
  /** Failed tries in a row, without a byte gained, after which the download gives up. */
  retries: number;
  /** The first pause in ms; it doubles up to a minute. */
  backoffMs: number;
  /** Size beyond which a file is refused. */
  maxBytes: number;
}

export const DOWNLOAD_LIMITS: Readonly<DownloadLimits> = {
  stallMs: 60_000,
  retries: 5,
  backoffMs: 1000,
  maxBytes: 20 * 2 ** 30,
};

/** How to reach the network. */
export interface Net {
  emit: Emit;
  signal?: AbortSignal | undefined;
  /** URL of an HTTP proxy; '' for none. Absent: `https_proxy`, `http_proxy`, `all_proxy` and `no_proxy` decide. */
  proxy?: string | undefined;
  limits?: Partial<DownloadLimits> | undefined;
}

/** A fault of the network that the next try may not meet. */
export class Passing extends Error {
  constructor(
    message: string,
    /** How long the server asks to be left alone, in ms. */
    readonly waitMs = 0,
    options?: ErrorOptions,
  ) {
    super(message, options);
  }
}

export const interrupted = (): Dkms2binError => new Dkms2binError('interrupted', 'Interrupted');
