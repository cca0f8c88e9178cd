import { Dkms2binError } from '../model/errors.js';
import { oneLine } from '../report/text.js';

function wrong(option: string, value: string, what: string, hint: string): Dkms2binError {
  return new Dkms2binError('usage', `${option}: "${oneLine(value)}" is not ${what}`, { hint });
}

/** Parsers of option values; each throws fault `usage` naming the option. */
export const text =
  (option: string) =>
  (value: string): string => {
    if (value.trim() === '') throw wrong(option, value, 'a value', `Give ${option} a value, or leave it out`);
    return value;
  };

export const repeated =
  (option: string) =>
  (value: string, before: string[] | undefined): string[] => [...(before ?? []), text(option)(value)];

/** Repeatable, and with commas. */
export const list =
  (option: string) =>
  (value: string, before: string[] | undefined): string[] => [
    ...(before ?? []),
    ...value.split(',').map((each) => text(option)(each).trim()),
  ];

export const url =
  (option: string) =>
  (value: string): string => {
    const parsed = URL.canParse(value) ? new URL(value) : null;
    if (!parsed || !['http:', 'https:'].includes(parsed.protocol))
      throw wrong(
        option,
        value,
        'an http:// or https:// URL',
        `Example: ${option} http://proxy.example:3128`,
      );
    return value;
  };

export const count =
  (option: string) =>
  (value: string): number => {
    const number = Number(value);
    if (!/^\d+$/.test(value) || number < 1 || number > 1024)
      throw wrong(option, value, 'a whole number from 1 to 1024', `Example: ${option} 2`);
    return number;
  };

export const port =
  (option: string) =>
  (value: string): number => {
    const number = Number(value);
    if (!/^\d+$/.test(value) || number < 1 || number > 65535)
      throw wrong(option, value, 'a port from 1 to 65535', `Example: ${option} 8080`);
    return number;
  };

/** Whole days, up to a hundred years. */
export const days =
  (option: string) =>
  (value: string): number => {
    const number = Number(value);
    if (!/^\d+$/.test(value) || number < 1 || number > 36525)
      throw wrong(option, value, 'a whole number of days from 1 to 36525', `Example: ${option} 3650`);
    return number;
  };

/** `512M`, `2G`, `1.5GiB`, `512` (MiB too) → MiB. */
export const size =
  (option: string) =>
  (value: string): number => {
    const match = /^(\d+(?:\.\d+)?)\s*([MG])?(?:i?B)?$/i.exec(value.trim());
    const mib = match ? Number(match[1]) * (match[2]?.toUpperCase() === 'G' ? 1024 : 1) : 0;
    if (!match) throw wrong(option, value, 'a size', `Sizes look like 512M or 2G`);
    if (mib < 256 || mib > 1024 * 1024)
      throw wrong(
        option,
        value,
        'between 256M and 1024G',
        'A VM needs at least 256M; 1G or more is sensible',
      );
    return Math.floor(mib);
  };

/** `500M`, `10G`, `1.5TiB`, `0` → bytes. */
export const diskSize =
  (option: string) =>
  (value: string): number => {
    const match = /^(\d+(?:\.\d+)?)(?:([MGT])(?:i?B)?)?$/i.exec(value.trim());
    if (!match || (match[2] === undefined && Number(match[1]) !== 0))
      throw wrong(option, value, 'a size with its unit', 'Sizes look like 500M, 10G or 1T');
    const unit = { M: 2 ** 20, G: 2 ** 30, T: 2 ** 40 }[match[2]?.toUpperCase() ?? 'M'] ?? 1;
    return Math.floor(Number(match[1]) * unit);
  };

/** `12h`, `30d`, `2w` → seconds. */
export const age =
  (option: string) =>
  (value: string): number => {
    const match = /^(\d+(?:\.\d+)?)([hdw])$/i.exec(value.trim());
    if (!match) throw wrong(option, value, 'an age with its unit', 'Ages look like 12h, 30d or 2w');
    const unit = { h: 3600, d: 86400, w: 7 * 86400 }[match[2]!.toLowerCase()] ?? 1;
    return Number(match[1]) * unit;
  };

/** `90` (seconds), `90s`, `45m`, `2h` → seconds. */
export const duration =
  (option: string) =>
  (value: string): number => {
    const match = /^(\d+(?:\.\d+)?)\s*(s|m|h)?$/i.exec(value.trim());
    const unit = { s: 1, m: 60, h: 3600 }[(match?.[2] ?? 's').toLowerCase()] ?? 1;
    const seconds = match ? Math.round(Number(match[1]) * unit) : 0;
    if (!match || seconds < 1 || seconds > 7 * 86400)
      throw wrong(option, value, 'a time of 1 second to 7 days', 'Times look like 90s, 45m or 2h');
    return seconds;
  };

/** `30m`, `6h` → seconds, from one minute to seven days: a mirror is not to be asked without end. */
export const interval =
  (option: string) =>
  (value: string): number => {
    const seconds = duration(option)(value);
    if (seconds < 60) throw wrong(option, value, 'a time of one minute or more', `Example: ${option} 6h`);
    return seconds;
  };

export const oneOf =
  <T extends string>(option: string, choices: Readonly<Record<string, T>>) =>
  (value: string): T => {
    const found = Object.hasOwn(choices, value) ? choices[value] : undefined;
    if (found === undefined)
      throw wrong(
        option,
        value,
        'one of its values',
        `Use one of: ${[...new Set(Object.values(choices))].join(', ')}`,
      );
    return found;
  };
