// The rooms of src/ from the top down: a room imports from those below it and never from those above, types included.
// Rooms of one line do not know each other.
const LAYERS = [
  ['cli'],
  ['ui', 'report'],
  ['engine'],
  ['cell'],
  ['source'],
  ['repo', 'attest'],
  ['pack'],
  ['environment'],
  ['guest', 'vm', 'compiler'],
  ['cache', 'distro'],
  ['options'],
  ['formats'],
  ['lib'],
  ['model'],
];

const folders = (rooms) => `^src/(${rooms.join('|')})/`;

export default {
  forbidden: [
    ...LAYERS.flatMap((rooms, at) =>
      rooms.map((room) => ({
        name: `${room} looks up`,
        severity: 'error',
        from: { path: `^src/${room}/` },
        to: {
          path: [
            folders([...LAYERS.slice(0, at).flat(), ...rooms].filter((other) => other !== room).concat('$^')),
            '^src/[^/]+[.]ts$',
          ],
        },
      })),
    ),
    {
      name: 'a room that is not in the table',
      severity: 'error',
      from: {},
      to: { path: '^src/[^/]+/', pathNot: [folders(LAYERS.flat())] },
    },
    { name: 'a cycle', severity: 'error', from: {}, to: { circular: true } },
  ],
  options: {
    tsConfig: { fileName: 'tsconfig.json' },
    tsPreCompilationDeps: true,
    doNotFollow: { path: 'node_modules' },
    exclude: { path: '^src/report/page/' },
  },
};
