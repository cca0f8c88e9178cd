// Writes what is made of the tables in src: schema/*.json, docs/reference/*.md and man/dkms2bin.1. Run it after `npm run build`;
// a unit test fails while one of them is stale. `referenceFiles` makes the texts of whatever build of the modules it is given.
import { mkdir, writeFile } from 'node:fs/promises';
import { dirname } from 'node:path';
import { fileURLToPath } from 'node:url';
import { format } from 'prettier';

const NOTICE = '<!-- Made by scripts/write-reference.mjs: change the tables in src, not this file. -->\n';

/** The modules that the files are made of, by their place in src or dist. */
export const MODULES = {
  commands: 'cli/commands/index.js',
  config: 'options/config.js',
  errors: 'model/errors.js',
  forms: 'options/forms.js',
  groups: 'options/option.js',
  schemas: 'model/result-schema.js',
  table: 'options/table.js',
  variables: 'lib/variables.js',
};

/** Every file, by its path from the root. */
export async function referenceFiles(from) {
  const schemas = {
    config: from.config.configJsonSchema(),
    result: from.schemas.resultJsonSchema(),
    proof: from.schemas.proofJsonSchema(),
    refresh: from.schemas.refreshJsonSchema(),
    notification: from.schemas.notificationJsonSchema(),
    bisect: from.schemas.bisectJsonSchema(),
    matrix: from.schemas.matrixJsonSchema(),
  };
  const files = new Map();
  for (const [name, schema] of Object.entries(schemas))
    files.set(
      `schema/${name}.schema.json`,
      await format(JSON.stringify(schema), { parser: 'json', printWidth: 110 }),
    );
  const pages = {
    commands: commandsPage(from),
    options: optionsPage(from),
    config: configPage(from, schemas.config),
    'exit-codes': exitCodesPage(from),
    environment: environmentPage(from),
    json: jsonPage(schemas),
  };
  for (const [name, text] of Object.entries(pages)) files.set(`docs/reference/${name}.md`, NOTICE + text);
  files.set('man/dkms2bin.1', manual(from));
  return files;
}

const sentence = (text) => `${text.charAt(0).toUpperCase()}${text.slice(1)}`.replace(/([^.])$/, '$1.');
/** Text for a table; in code `<` is itself. */
const cell = (text) =>
  text
    .replaceAll('|', '\\|')
    .replaceAll('\n', ' ')
    .split('`')
    .map((part, at) => (at % 2 === 0 ? part.replaceAll('<', '&lt;') : part))
    .join('`');
const row = (cells) => `| ${cells.map(cell).join(' | ')} |\n`;
const tableOf = (head, rows) =>
  rows.length === 0 ? '' : row(head) + row(head.map(() => '---')) + rows.map(row).join('');
const code = (text) => `\`${text}\``;
/** A sentence for Markdown: what looks like a tag is none. */
const prose = (text) => text.replace(/<([a-z.]+)>/g, '`<$1>`');

const shown = (commands) => commands.COMMANDS.filter(({ summary }) => summary !== undefined);
/** Of a command that its group takes by default, the group's name is what people type. */
const typed = ({ name, isDefault }) => (isDefault && name.includes(' ') ? name.split(' ')[0] : name);
const flagOf = ({ name, value, fallback }) =>
  `--${fallback === true ? 'no-' : ''}${name}${value === undefined ? '' : ` ${value}`}`;

function usageOf({ name, usage, arguments: all = [] }) {
  const own = usage ?? [...all.map((each) => each.name), '[options]'].join(' ');
  return `dkms2bin ${name} ${own}`;
}

/** A command's options under their headings. */
function headed(one, { table, groups }) {
  const rows = table.optionRows(one.name);
  return Object.entries(groups.GROUPS)
    .map(([group, title]) => [
      (group === 'what' ? (one.heading ?? title) : title).replace(/:$/, ''),
      rows.filter((each) => each.group === group),
    ])
    .filter(([, list]) => list.length > 0);
}

function commandsPage(from) {
  const parts = ['# Commands\n', `${prose(from.commands.ABOUT)}\n`];
  parts.push(
    tableOf(
      ['Command', 'What it does'],
      shown(from.commands).map((one) => [
        `[\`${one.name}\`](#${one.name.replaceAll(' ', '-')})`,
        sentence(one.summary),
      ]),
    ),
  );
  for (const one of shown(from.commands)) {
    parts.push(`## ${one.name}\n`, '```', usageOf(one), '```\n', `${prose(one.description)}\n`);
    const given = (one.arguments ?? []).map(({ name, help }) => [code(name), sentence(help)]);
    if (given.length > 0) parts.push(tableOf(['Argument', 'Meaning'], given));
    for (const [heading, rows] of headed(one, from)) {
      parts.push(`**${heading}**\n`);
      parts.push(
        tableOf(
          ['Option', 'Meaning'],
          rows.map((each) => [code(flagOf(each)), sentence(from.table.helpOf(each, one.name))]),
        ),
      );
    }
    if (one.notes) parts.push(`${prose(one.notes)}\n`);
    if (one.examples) parts.push('```sh', ...one.examples, '```\n');
  }
  return `${parts.join('\n').trimEnd()}\n`;
}

function optionsPage({ table, commands, forms }) {
  const names = new Map(shown(commands).map((one) => [one.name, typed(one)]));
  const rows = [...table.OPTIONS].sort((a, b) => Number(a.name > b.name) - Number(a.name < b.name));
  const parts = [
    '# Options\n',
    'Every option, by name. An option that is in the config file has the key of the same name there, see [config](config.md).\n',
  ];
  for (const each of rows) {
    const [first] = each.commands;
    parts.push(`## ${code(flagOf(each))}\n`, `${prose(sentence(table.helpOf(each, first)))}\n`);
    const values = forms.choicesOf(each.schema);
    if (values.length > 0) parts.push(`Values: ${values.map(code).join(', ')}.\n`);
    const meanings = Object.keys(each.says ?? {}).filter((name) => name !== first);
    for (const name of meanings)
      parts.push(`With ${code(names.get(name))}: ${prose(sentence(table.helpOf(each, name)))}\n`);
    const known = each.commands.filter((name) => names.has(name)).map((name) => code(names.get(name)));
    parts.push(`Commands: ${known.length > 15 ? 'all' : known.join(', ')}. ${inFile(each)}\n`);
  }
  return `${parts.join('\n').trimEnd()}\n`;
}

const FILE_WORDS = {
  own: 'In the config file.',
  borrowed: 'In the config file.',
  matrix: 'In the section `matrix` of the config file.',
};
const inFile = ({ file }) => (file === undefined ? 'Not in the config file.' : FILE_WORDS[file]);

const TYPES = {
  string: 'text',
  integer: 'whole number',
  boolean: '`true` or `false`',
  object: 'mapping',
  null: '`null`',
};

/** The form of a JSON Schema in a few words. */
function formOf(schema) {
  if (schema.enum) return schema.enum.map((each) => code(JSON.stringify(each))).join(', ');
  if (schema.const !== undefined) return code(JSON.stringify(schema.const));
  if (schema.anyOf) return [...new Set(schema.anyOf.map(formOf))].join(' or ');
  if (schema.type === 'array') return `list of ${formOf(schema.items ?? {})}`;
  return [schema.type ?? 'anything']
    .flat()
    .map((type) => TYPES[type] ?? type)
    .join(' or ');
}

/** Rows of all that an object of this schema holds, with paths. */
function fields(schema, path = '') {
  if (schema.anyOf) {
    const objects = schema.anyOf.filter(({ type }) => type === 'object');
    return objects.length > 1
      ? objects
          .flatMap((each) => fields(each, path))
          .filter(([name], at, all) => all.findIndex(([n]) => n === name) === at)
      : schema.anyOf.flatMap((each) => fields(each, path));
  }
  if (schema.type === 'array') return fields(schema.items ?? {}, `${path}[]`);
  return Object.entries(schema.properties ?? {}).flatMap(([name, inner]) => {
    const own = path === '' ? name : `${path}.${name}`;
    return [[code(own), formOf(inner), inner.description ?? ''], ...fields(inner, own)];
  });
}

function configPage(_, schema) {
  return `# Config file

\`dkms2bin.yaml\` in the current folder, or the file of \`--config\`. Its keys are the long options; every command takes the
keys that it knows. What is typed wins over the file, and a typed list replaces the file's. A value in the file is checked when
the file is read, whatever is typed: an error names the file, the line and the key.

\`\`\`yaml
dkms: [acpi-call-dkms, ./v4l2loopback]
kernel: latest
out-dir: ./out
memory: 2G
timeout: 45m
verify: true
\`\`\`

${tableOf(
  ['Key', 'Form', 'Meaning'],
  fields(schema).map(([name, form, about]) => [name, form, sentence(about)]),
)}
Editors find the same in \`schema/config.schema.json\`.
`;
}

function exitCodesPage({ errors }) {
  return `# Exit codes

${tableOf(
  ['Code', 'Meaning', 'Fault in JSON'],
  errors.EXIT_CODES.map(({ code: number, meaning, of }) => [
    String(number),
    sentence(meaning),
    of in errors.EXIT_CODE && !['ok', 'bug', 'work-to-do'].includes(of) ? code(of) : '',
  ]),
)}
If several apply: the first of ${errors.EXIT_ORDER.join(', ')}.
`;
}

function environmentPage({ variables }) {
  const rows = (all) => Object.entries(all).map(([name, meaning]) => [code(name), sentence(meaning)]);
  return `# Environment

${tableOf(['Variable', 'Meaning'], rows(variables.VARIABLES))}
Variables that other programs know, too:

${tableOf(['Variable', 'Meaning'], rows(variables.STANDARD_VARIABLES))}
Output has no colours, so \`NO_COLOR\` and \`FORCE_COLOR\` change nothing.
`;
}

function jsonPage(schemas) {
  const { config: _, ...documents } = schemas;
  const parts = [
    '# JSON\n',
    'With `--json` a command prints one document on standard output, however it ends. `schemaVersion` rises when a field is taken away or changes its meaning; new fields may come without. A command that ends before it has a result prints its document with `error`.\n',
    'The JSON Schemas are in `schema/`.\n',
  ];
  for (const [name, schema] of Object.entries(documents)) {
    parts.push(`## ${schema.title ?? name}\n`, `Schema: \`schema/${name}.schema.json\`\n`);
    parts.push(tableOf(['Field', 'Form', 'Meaning'], fields(schema)));
  }
  return `${parts.join('\n').trimEnd()}\n`;
}

/** Text for roff: nothing of it is a request or an escape. */
const roff = (text) =>
  text
    .replaceAll('\\', '\\e')
    .replaceAll('-', '\\-')
    .replaceAll('`', '')
    .replace(/[“”]/g, '"')
    .replace(
      /[^\x20-\x7e\n]/g,
      (char) => `\\[u${char.codePointAt(0).toString(16).toUpperCase().padStart(4, '0')}]`,
    )
    .replace(/^([.'])/gm, '\\&$1');

function manual(from) {
  const { commands, errors, table, variables } = from;
  const lines = [
    '.\\" Made by scripts/write-reference.mjs: change the tables in src, not this file.',
    '.TH DKMS2BIN 1 "" dkms2bin "User Commands"',
    '.SH NAME',
    `dkms2bin \\- build binary packages of DKMS modules for exact kernels`,
    '.SH SYNOPSIS',
    '.nf',
    ...shown(commands).map((one) => `\\fBdkms2bin\\fR ${roff(usageOf(one).replace(/^dkms2bin /, ''))}`),
    '.fi',
    '.SH DESCRIPTION',
    roff(commands.ABOUT),
    '.SH COMMANDS',
  ];
  for (const one of shown(commands)) {
    lines.push(`.SS ${roff(one.name)}`, roff(one.description));
    for (const { name, help } of one.arguments ?? [])
      lines.push('.TP', `\\fI${roff(name)}\\fR`, roff(sentence(help)));
    for (const each of table.optionRows(one.name)) {
      if (each.name === 'config') continue;
      lines.push('.TP', `\\fB${roff(flagOf(each))}\\fR`, roff(sentence(table.helpOf(each, one.name))));
    }
    if (one.notes)
      lines.push(
        '.PP',
        ...roff(one.notes)
          .split('\n')
          .flatMap((line) => [line, '.br']),
      );
    if (one.examples) lines.push('.PP', '.nf', '.RS', ...one.examples.map(roff), '.RE', '.fi');
  }
  lines.push(
    '.SH FILES',
    '.TP',
    '.I dkms2bin.yaml',
    roff(
      'Config file in the current folder, or the file of --config, which every command has. Its keys are the long options; what is typed wins over it.',
    ),
  );
  lines.push('.SH ENVIRONMENT');
  for (const [name, meaning] of Object.entries({ ...variables.VARIABLES, ...variables.STANDARD_VARIABLES }))
    lines.push('.TP', `.B ${name}`, roff(sentence(meaning)));
  lines.push('.SH EXIT STATUS');
  for (const { code: number, meaning } of errors.EXIT_CODES)
    lines.push('.TP', `.B ${number}`, roff(sentence(meaning)));
  lines.push('.PP', `If several apply: the first of ${errors.EXIT_ORDER.join(', ')}.`);
  return `${lines.join('\n')}\n`;
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const root = fileURLToPath(new URL('../', import.meta.url));
  const from = {};
  for (const [name, path] of Object.entries(MODULES))
    from[name] = await import(new URL(`../dist/${path}`, import.meta.url).href);
  for (const [path, text] of await referenceFiles(from)) {
    await mkdir(dirname(root + path), { recursive: true });
    await writeFile(root + path, text);
  }
}
