import { ask, statusError } from './download/http.js';
import { DOWNLOAD_LIMITS, type Net } from './download/net.js';
import { withRetries } from './download/retry.js';

/** Posts a document; any answer of the kind 2xx will do. Errors name no more of the URL than its server: its path may be a secret. */
export async function post(url: string, json: string, net: Net): Promise<void> {
  const shown = new URL(url).origin;
  const limits = { ...DOWNLOAD_LIMITS, stallMs: 30_000, retries: 3, ...net.limits };
  await withRetries(net, limits, async () => {
    using answer = await ask({ url, json, shown, stallMs: limits.stallMs }, net);
    const { statusCode, statusMessage = '' } = answer.response;
    if (statusCode >= 200 && statusCode < 300) return;
    throw statusError(`${shown}: HTTP ${statusCode} ${statusMessage}`.trim(), answer.response);
  });
}
