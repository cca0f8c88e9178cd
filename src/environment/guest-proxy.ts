import { credentialsFor } from '../lib/credentials.js';
import { guestUrl, openGateway } from '../lib/gateway.js';
import { NET } from '../vm/args.js';

/** How a guest, or a sandbox on this host, reaches its package sources. Disposing it ends that. */
export interface GuestProxy extends AsyncDisposable {
  /** HTTP proxy to use; '' for none. */
  proxy: string;
  /** What a URL is called there. */
  named: (url: string) => string;
}

/**
 * Without passwords that is `proxy` itself. Where one of `urls`, or the proxy, needs one, it is this process, which adds it:
 * no guest, sandbox, image or layer ever holds a password.
 */
export async function guestProxy(
  { proxy, urls }: { proxy: string; urls: readonly (string | undefined)[] },
  from: 'vm' | 'sandbox',
): Promise<GuestProxy> {
  const secret = [proxy, ...urls].some((url) => url !== undefined && url !== '' && credentialsFor(url));
  if (!secret) return { proxy, named: (url) => url, [Symbol.asyncDispose]: () => Promise.resolve() };
  const gateway = await openGateway(proxy === '' ? undefined : proxy);
  return {
    proxy: gateway.url(from === 'vm' ? NET.egress.gateway : '127.0.0.1'),
    named: guestUrl,
    [Symbol.asyncDispose]: () => gateway[Symbol.asyncDispose](),
  };
}

/** A proxy as a VM sees it: one of the host's own loopback is none there, unless it was asked for. */
export function reachable(proxy: string | undefined, machine: { proxy?: string | undefined }): string {
  if (proxy === undefined || machine.proxy !== undefined) return proxy ?? '';
  return /^https?:\/\/(?:[^@/]*@)?(?:localhost|127\.|\[::1\])/.test(proxy) ? '' : proxy;
}
