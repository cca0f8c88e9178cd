import { request as httpRequest, type RequestOptions } from 'node:http';
import { HttpsProxyAgent } from 'hpagent';
import { Dkms2binError } from '../model/errors.js';
import { credentialsFor, redact, withoutCredentials } from './credentials.js';
import { standardVariable } from './variables.js';

/** The proxy the environment names for `url`, as curl reads it. */
export function proxyFromEnv(url: string, env?: NodeJS.ProcessEnv): string | undefined {
  const { protocol, hostname } = new URL(url);
  const exempt = (standardVariable('no_proxy', env) ?? '').split(/[\s,]+/).filter(Boolean);
  const host = hostname.replace(/^\[|\]$/g, '');
  if (
    exempt.some(
      (e) => e === '*' || host === e.replace(/^\./, '') || host.endsWith(`.${e.replace(/^\./, '')}`),
    )
  ) {
    return undefined;
  }
  const own = protocol === 'https:' ? 'https_proxy' : 'http_proxy';
  return standardVariable(own, env) ?? standardVariable('all_proxy', env);
}

/**
 * got's options for a request: the user and password of its URL, and to go through the proxy `option` ('' for none, undefined for the environment's): https by CONNECT,
 * http by the absolute form, since many caching proxies refuse CONNECT to port 80. Throws `usage` for no http proxy.
 */
export function proxyOptions(url: string, option: string | undefined): object {
  const login = credentialsFor(url);
  const chosen = option ?? proxyFromEnv(url);
  if (!chosen) return { ...login };
  const text = withoutCredentials(chosen.includes('://') ? chosen : `http://${chosen}`);
  if (!/^https?:\/\//.test(text) || !URL.canParse(text)) {
    throw new Dkms2binError('usage', `Not an http proxy: ${redact(text)}`);
  }
  const proxy = new URL(text);
  const own = credentialsFor(text);
  if (own) Object.assign(proxy, own);
  const credentials = own && `Basic ${Buffer.from(`${own.username}:${own.password}`).toString('base64')}`;
  return {
    ...login,
    agent: { https: new HttpsProxyAgent({ proxy, keepAlive: false }) },
    request: (target: URL, options: RequestOptions, callback: Parameters<typeof httpRequest>[2]) => {
      // Undefined lets got make the request itself.
      if (target.protocol !== 'http:' || proxy.protocol !== 'http:') return undefined;
      const headers: Record<string, unknown> = {
        ...(options.headers as Record<string, unknown>),
        host: target.host,
      };
      if (credentials) headers['proxy-authorization'] = credentials;
      return httpRequest(
        {
          ...options,
          headers: headers as NonNullable<RequestOptions['headers']>,
          protocol: 'http:',
          host: proxy.hostname.replace(/^\[|\]$/g, ''),
          hostname: proxy.hostname.replace(/^\[|\]$/g, ''),
          port: proxy.port || 80,
          path: `http://${target.host}${target.pathname}${target.search}`,
        },
        callback,
      );
    },
  };
}
