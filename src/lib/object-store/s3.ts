import { createReadStream, createWriteStream } from 'node:fs';
import type { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import {
  GetObjectCommand,
  HeadObjectCommand,
  PutObjectCommand,
  S3Client,
  S3ServiceException,
} from '@aws-sdk/client-s3';
import { Dkms2binError, messageOf } from '../../model/errors.js';
import { digestOf } from '../digest.js';
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
  });
  const object = (key: string): { Bucket: string; Key: string } => ({
    Bucket: bucket,
    Key: prefix === '' ? key : `${prefix}/${key}`,
  });
  const there = async (key: string): Promise<boolean> => {
    try {
      await client.send(new HeadObjectCommand(object(key)));
      return true;
    } catch (error) {
      if (statusOf(error) === 404) return false;
      throw storeError(error, name);
    }
  };
  return {
    name,
    put: async (file, signal) => {
      const blob = await digestOf({ file }, signal);
      const key = blobPath(blob.sha256);
      if (await there(key)) return blob;
      const put = { ...object(key), Body: createReadStream(file), ContentLength: blob.size };
      // An object is seen when all of it has come, never before.
      await client
        .send(new PutObjectCommand(put), signal ? { abortSignal: signal } : {})
        .catch((error: unknown) => {
          throw storeError(error, name);
        });
      return blob;
    },
    has: (sha256) => there(blobPath(sha256)),
    get: async (sha256, to, { signal, maxBytes = MAX_BLOB_BYTES } = {}) => {
      try {
        const { Body, ContentLength = 0 } = await client.send(
          new GetObjectCommand(object(blobPath(sha256))),
          signal ? { abortSignal: signal } : {},
        );
        requireSize(ContentLength, maxBytes, sha256, name);
        await pipeline(Body as Readable, createWriteStream(to));
      } catch (error) {
        throw statusOf(error) === 404 ? notThere(sha256, name) : storeError(error, name);
      }
      await requireDigest(to, sha256, name);
    },
    putNote: async (note, text) => {
      await client
        .send(new PutObjectCommand({ ...object(`notes/${note}`), Body: text }))
        .catch((error: unknown) => {
          throw storeError(error, name);
        });
    },
    getNote: async (note) => {
      try {
        const { Body, ContentLength = 0 } = await client.send(new GetObjectCommand(object(`notes/${note}`)));
        if (ContentLength > MAX_NOTE_BYTES)
          throw new Dkms2binError('transient', `${name}: ${note} is too large`);
        return (await Body?.transformToString()) ?? null;
      } catch (error) {
        if (statusOf(error) === 404) return null;
        throw storeError(error, name);
      }
    },
  };
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
