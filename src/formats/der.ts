import { Unreadable } from './bytes.js';

/*
 * A reader of DER and no library: what we ask of a signature and of a certificate are five values, pkijs with asn1js costs
 * a third of a second to load, and both take BER for DER.
 */

export const INTEGER = 0x02;
export const OCTET_STRING = 0x04;
export const OBJECT_ID = 0x06;
export const SEQUENCE = 0x30;
export const SET = 0x31;
/** Context-specific tag `n`, constructed. */
export const context = (n: number): number => 0xa0 + n;

export interface Element {
  tag: number;
  value: Buffer;
}

/** The DER elements that fill these bytes. Throws Unreadable. */
export function elements(bytes: Buffer): Element[] {
  const found: Element[] = [];
  for (let at = 0; at < bytes.length;) {
    const [tag = 0, short = 0x80] = bytes.subarray(at, at + 2);
    const more = short < 0x80 ? 0 : short - 0x80;
    const start = at + 2 + more;
    // 0x80 alone is BER's indefinite length, which DER forbids.
    if (short === 0x80 || more > 4 || start > bytes.length) throw damaged();
    const length = more === 0 ? short : bytes.readUIntBE(at + 2, more);
    if (length > bytes.length - start) throw damaged();
    found.push({ tag, value: bytes.subarray(start, start + length) });
    at = start + length;
  }
  return found;
}

/** The value of the first of the elements that fill these bytes. Throws Unreadable when it has another tag. */
export function valueIn(bytes: Buffer, tag: number): Buffer {
  const [first] = elements(bytes);
  if (first?.tag !== tag) throw damaged();
  return first.value;
}

/** The elements of the sequence that these bytes begin with. Throws Unreadable when they do not. */
export const sequenceIn = (bytes: Buffer): Element[] => elements(valueIn(bytes, SEQUENCE));

const damaged = (): Unreadable => new Unreadable('its DER is damaged');
