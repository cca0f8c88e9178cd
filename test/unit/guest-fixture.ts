import { createHash } from 'node:crypto';
import { Guest } from '../../src/guest/guest.js';
import type { ProgramName } from '../../src/guest/program.js';
import type { Command, ExecIo, Transport } from '../../src/guest/transport.js';

export interface Answer {
  code?: number;
  stdout?: string | Buffer;
}

export interface Call {
  /** The program, or the shell command that is none. */
  name: string;
  /** Its text with the variables in front. */
  text: string;
  input: Buffer;
}

/** Words that only one of the Python programs has. */
const PYTHON: [word: string, name: ProgramName][] = [
  ['def verify(', 'verify.py'],
  ['def prove(', 'prove.py'],
  ['_rpmfilename', 'pack-rpm.py'],
  ['no build result in this guest', 'collect.py'],
];

function nameOf(command: Command): string {
  if ('python' in command) return PYTHON.find(([word]) => command.python.includes(word))?.[1] ?? 'a program';
  return / exec bash \/var\/lib\/dkms2bin\/(\S+)/.exec(command.sh)?.[1] ?? command.sh;
}

const bytesOf = (input: ExecIo['input']): Buffer => {
  if (input === undefined) return Buffer.alloc(0);
  return typeof input === 'object' && 'file' in input
    ? Buffer.from(`file ${input.file}`)
    : Buffer.from(input);
};

/** A guest whose programs end as told; other commands succeed and print nothing. */
export function standInGuest(answers: Partial<Record<ProgramName, Answer>>): { guest: Guest; calls: Call[] } {
  const calls: Call[] = [];
  const transport: Transport = {
    exec: async (command, { input, stdout, stderr }) => {
      const name = nameOf(command);
      const bytes = bytesOf(input);
      calls.push({ name, text: 'python' in command ? command.python : bytes.toString(), input: bytes });
      const answer = answers[name as ProgramName];
      await new Promise<void>((resolve) => stdout.end(answer?.stdout ?? '', resolve));
      await new Promise<void>((resolve) => stderr.end(resolve));
      return { code: answer?.code ?? 0, timedOut: false };
    },
    close: () => Promise.resolve(),
  };
  return { guest: new Guest({ transport, alive: (work) => work }), calls };
}

/** Result lines as a program prints them. */
export const rows = (...lines: string[]): string => lines.map((line) => `@@dkms2bin ${line}\n`).join('');

/** Frames as collect.py and pack-rpm.py write them. */
export function frames(blobs: readonly (readonly [kind: string, bytes: string | Buffer])[]): Buffer {
  const hash = createHash('sha256');
  const parts = blobs.map(([kind, content], index) => {
    const bytes = Buffer.from(content);
    hash.update(bytes);
    return Buffer.concat([Buffer.from(`DKMS2BIN1 ${kind} ${index} ${bytes.length}\n`), bytes]);
  });
  return Buffer.concat([...parts, Buffer.from(`DKMS2BIN1 end ${hash.digest('hex')} 0\n`)]);
}
