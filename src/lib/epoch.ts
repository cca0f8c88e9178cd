import { standardVariable } from './variables.js';

/** Seconds since 1970 that every file and kbuild timestamp gets: a constant, so that same input gives same bytes. */
export const EPOCH = Number(standardVariable('SOURCE_DATE_EPOCH') ?? 1577836800);
