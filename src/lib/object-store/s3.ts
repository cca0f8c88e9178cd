import { createWriteStream } from 'node:fs';
import { rm } from 'node:fs/promises';
import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import {
  GetObjectCommand,
  HeadObjectCommand,
  PutObjectCommand,
  S3Client,
  S3ServiceException,
} from '@aws-sdk/client-s3';
import { Dkms2binError, messageOf } from '../../model/errors.js';
import { digestOf, sameChunks, type Content, type ContentDigest } from '../digest.js';
import {
  blobPath,
  MAX_BLOB_BYTES,
  MAX_NOTE_BYTES,
  notThere,
  requireDigest,
  requireSize,
  type Store,
} from './store.js';
import { environment, standardVariable } from '../variables.js';

/**
 * A bucket of S3 or of what speaks its protocol. Access key, region and endpoint come from where all AWS tools look for them
 * (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION, AWS_ENDPOINT_URL, profiles, the machine's role).
 */
export function s3Store(url: string): Store {
  const [, bucket, path = ''] = /^s3:\/\/([^/@:?]+)(?:\/([^?]*))?$/.exec(url) ?? [];
  if (bucket === undefined)
    throw new Dkms2binError('usage', 'Not an S3 store: give s3://BUCKET or s3://BUCKET/PREFIX');
  const prefix = path.replace(/\/+$/, '');
  const name = prefix === '' ? `s3://${bucket}` : `s3://${bucket}/${prefix}`;
  // Not for whoever runs this: which versions work is this package's own matter.
  environment().AWS_SDK_JS_NODE_VERSION_SUPPORT_WARNING_DISABLED ??= 'true';
  const endpoint = standardVariable('AWS_ENDPOINT_URL_S3') ?? standardVariable('AWS_ENDPOINT_URL');
  const client = new S3Client({
    region: standardVariable('AWS_REGION') ?? standardVariable('AWS_DEFAULT_REGION') ?? 'us-east-1',
    // A server of one's own has no names for buckets, and often does not know the newer checksums.
    ...(endpoint !== undefined && { forcePathStyle: true }),
    requestChecksumCalculation: 'WHEN_REQUIRED',
    responseChecksumValidation: 'WHEN_REQUIRED',
    // It would warn on the terminal of what an error says.
    logger: QUIET,
  });
  const object = (key: string): { Bucket: string; Key: string } => ({
    Bucket: bucket,
    Key: prefix === '' ? key : `${prefix}/${key}`,
  });
  const failing = (error: unknown): never => {
    throw storeError(error, name);
  };
  /** Of what is there, in bytes; null for nothing. */
  const sizeOf = async (key: string): Promise<number | null> => {
    try {
      return (await client.send(new HeadObjectCommand(object(key)))).ContentLength ?? 0;
    } catch (error) {
      if (statusOf(error) === 404) return null;
      throw storeError(error, name);
    }
  };
  return {
    name,
    put: async (file, signal) => {
      const blob = await digestOf({ file }, signal);
      const key = blobPath(blob.sha256);
      // One of another size is none of ours.
      if ((await sizeOf(key)) === blob.size) return blob;
      // An object is seen when all of it has come, never before.
      const put = (Body: Readable, abortSignal: AbortSignal): Promise<unknown> =>
        client.send(new PutObjectCommand({ ...object(key), Body, ContentLength: blob.size }), {
          abortSignal,
        });
      await sent({ file }, blob, signal, put).catch(failing);
      return blob;
    },
    has: async (sha256) => (await sizeOf(blobPath(sha256))) !== null,
    get: async (sha256, to, { signal, maxBytes = MAX_BLOB_BYTES } = {}) => {
      try {
        const { Body, ContentLength = 0 } = await client.send(
          new GetObjectCommand(object(blobPath(sha256))),
          signal ? { abortSignal: signal } : {},
        );
        requireSize(ContentLength, maxBytes, sha256, name);
        const counted = counting((bytes) => requireSize(bytes, maxBytes, sha256, name));
        await pipeline(Body as Readable, counted, createWriteStream(to));
      } catch (error) {
        await rm(to, { force: true });
        throw statusOf(error) === 404 ? notThere(sha256, name) : storeError(error, name);
      }
      await requireDigest(to, sha256, name);
    },
    putNote: async (note, text) => {
      await client.send(new PutObjectCommand({ ...object(`notes/${note}`), Body: text })).catch(failing);
    },
    getNote: async (note) => {
      try {
        const { Body, ContentLength = 0 } = await client.send(new GetObjectCommand(object(`notes/${note}`)));
        const requireSmall = (bytes: number): void => {
          if (bytes > MAX_NOTE_BYTES) throw new Dkms2binError('transient', `${name}: ${note} is too large`);
        };
        requireSmall(ContentLength);
        const chunks: Buffer[] = [];
        for await (const chunk of counting(requireSmall)(Body as Readable)) chunks.push(chunk);
        return Buffer.concat(chunks).toString();
      } catch (error) {
        if (statusOf(error) === 404) return null;
        throw storeError(error, name);
      }
    },
  };
}

const nothing = (): void => undefined;
const QUIET = { debug: nothing, info: nothing, warn: nothing, error: nothing };

/** Hands on what comes, and tells how much that is by now: the size that a server names need not be true. */
const counting = (told: (bytes: number) => void) =>
  async function* (chunks: AsyncIterable<Buffer>): AsyncGenerator<Buffer, void> {
    let bytes = 0;
    for await (const chunk of chunks) {
      told((bytes += chunk.length));
      yield chunk;
    }
  };

/** `send` gets a content's bytes. The client does not hear of a stream that fails: it is told by the signal. */
async function sent(
  content: Content,
  known: ContentDigest,
  signal: AbortSignal | undefined,
  send: (body: Readable, signal: AbortSignal) => Promise<unknown>,
): Promise<void> {
  const body = Readable.from(sameChunks(content, known, signal), { objectMode: false });
  const failed = new AbortController();
  body.once('error', (error) => failed.abort(error));
  try {
    await send(body, signal ? AbortSignal.any([signal, failed.signal]) : failed.signal);
  } catch (error) {
    throw failed.signal.aborted ? failed.signal.reason : error;
  } finally {
    body.destroy();
  }
}

const statusOf = (error: unknown): number | undefined =>
  error instanceof S3ServiceException ? error.$metadata.httpStatusCode : undefined;

function storeError(error: unknown, where: string): Error {
  if (error instanceof Dkms2binError) return error;
  if (error instanceof Error && error.name === 'CredentialsProviderError') {
    return new Dkms2binError('usage', `${where}: no access key`, {
      hint: 'Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE.',
      cause: error,
    });
  }
  const status = statusOf(error);
  const text = `${where}: ${messageOf(error) || (error as Error).name}`;
  if (status === 401 || status === 403 || status === 404 || status === 301) {
    return new Dkms2binError('usage', text, {
      hint: 'Check the bucket, AWS_REGION, AWS_ENDPOINT_URL and the access key.',
      cause: error,
    });
  }
  return new Dkms2binError('transient', text, { cause: error });
}
