/** What a file is that is no source, and what to give instead. */
export interface OtherKind {
  what: string;
  hint: string;
}

const FOLDER = 'Give the folder that holds it.';
const NONE = 'Give a DKMS source; docs/guides/sources.md has all forms.';

const BY_NAME: readonly [RegExp, OtherKind][] = [
  [/^dkms\.conf(?:\.in)?$|\.dkms$/, { what: "one file of a module's source", hint: FOLDER }],
  [
    /^(?:GNUm|M|m)akefile$|^Kbuild$|^Kconfig$|\.mk$/,
    { what: "a makefile, which is one file of a module's source", hint: FOLDER },
  ],
  [/\.(?:c|h|cc|cpp|S|s|rs)$/, { what: "one file of a module's source code", hint: FOLDER }],
  [/\.ko(?:\.(?:gz|xz|zst))?$/, { what: 'a module that is already built, for one kernel', hint: NONE }],
  [
    /\.(?:patch|diff)$/,
    {
      what: 'a patch',
      hint: 'Give the source with the patch applied, or name it by PATCH in its dkms.conf.',
    },
  ],
  [
    /\.spec$/,
    { what: 'an RPM spec file', hint: 'Give the source that it packs, or a package with DKMS source in it.' },
  ],
  [
    /\.changes$|\.buildinfo$/,
    { what: 'a record of a Debian build', hint: 'Give the .deb or the .dsc that it names.' },
  ],
  [
    /\.(?:7z|rar|cab|iso|run|bin|exe|msi|jar|whl|lz|lzma|lz4)$/i,
    { what: 'an archive or program that dkms2bin does not unpack', hint: 'Unpack it, and give the folder.' },
  ],
  [
    /\.(?:sha256|sha512|md5|sig|asc|sign)$/i,
    { what: 'a checksum or signature of another file', hint: 'Give the file that it is of.' },
  ],
];

const BY_CONTENT: readonly [RegExp, OtherKind][] = [
  [/^\x7fELF/, { what: 'a program or module that is already built', hint: NONE }],
  [/^#!/, { what: 'a script', hint: NONE }],
  [
    /^\s*(?:<!doctype html|<html|<\?xml)/i,
    { what: 'a web page', hint: 'Its download may have failed. A git repository is given by its URL.' },
  ],
  [/^\s*[{[]\s*["{[\]}]/, { what: 'JSON', hint: NONE }],
  [
    /^(?:Format: \d|Hash: SHA|-----BEGIN PGP SIGNED MESSAGE-----)/m,
    { what: 'a Debian control file', hint: 'A Debian source package ends in .dsc.' },
  ],
  [
    /^(?:diff --git |--- \S+\n\+\+\+ |From [0-9a-f]{40} )/m,
    { what: 'a patch', hint: 'Give the source with the patch applied.' },
  ],
  [
    /^\s*#\s*include\s*[<"]|^\s*MODULE_LICENSE\(/m,
    { what: "one file of a module's source code", hint: FOLDER },
  ],
  [
    /^\s*obj-(?:m|y|\$\(\S+\))\s*[:+]?=|^\t\$\(MAKE\)|^\.PHONY:/m,
    { what: "a makefile, which is one file of a module's source", hint: FOLDER },
  ],
  [
    /^\s*(?:PACKAGE_NAME|BUILT_MODULE_NAME(?:\[\d+\])?)=/m,
    { what: "a dkms.conf, which is one file of a module's source", hint: FOLDER },
  ],
];

/** What a file is by its name or its first bytes, when it is surely no list of sources; null for what may be one. */
export function whatFileIs(name: string, head: Buffer): OtherKind | null {
  const text = head.toString('utf8');
  const known = BY_NAME.find(([form]) => form.test(name)) ?? BY_CONTENT.find(([form]) => form.test(text));
  return known?.[1] ?? null;
}
