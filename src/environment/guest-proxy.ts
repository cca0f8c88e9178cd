import { mirrorsOf } from '../distro/mirrors.js';
import type { DistroRow } from '../distro/row.js';
import type { Egress } from '../guest/programs/prove.js';
import { extraAuthorities } from '../lib/authorities.js';
import { credentialsFor } from '../lib/credentials.js';
import { guestUrl, openGateway } from '../lib/gateway.js';
import { NET } from '../vm/args.js';
import type { Machine } from './boot.js';

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

/** By that a VM reaches the package sources of its image. Disposing it ends that. */
export async function distroEgress(row: DistroRow, machine: Machine): Promise<Egress & AsyncDisposable> {
  const { main, security } = await mirrorsOf(row, machine, machine.arch);
  const authorities = Buffer.from(await extraAuthorities());
  const through = await guestProxy({ proxy: machine.proxy ?? '', urls: [main, security] }, 'vm');
  const { proxy } = through;
  return { proxy, authorities, [Symbol.asyncDispose]: () => through[Symbol.asyncDispose]() };
}

/** A proxy as a VM sees it: one of the host's own loopback is none there, unless it was asked for. */
export function reachable(proxy: string | undefined, machine: { proxy?: string | undefined }): string {
  if (proxy === undefined || machine.proxy !== undefined) return proxy ?? '';
  return /^https?:\/\/(?:[^@/]*@)?(?:localhost|127\.|\[::1\])/.test(proxy) ? '' : proxy;
}
