import tseslint from 'typescript-eslint';

// Imports point downward only (DESIGN, Layout). Each folder lists the folders it must not reach.
const LAYERS = {
  core: ['cli', 'ui', 'report', 'engine', 'build', 'plan', 'pack', 'repo', 'image', 'distro', 'vm', 'guest'],
  guest: ['cli', 'ui', 'report', 'engine', 'build', 'plan', 'pack', 'repo', 'image', 'distro', 'vm'],
  vm: ['cli', 'ui', 'report', 'engine', 'build', 'plan', 'pack', 'repo', 'image', 'distro', 'guest'],
  distro: ['cli', 'ui', 'report', 'engine', 'build', 'plan', 'pack', 'repo', 'vm', 'guest'],
  image: ['cli', 'ui', 'report', 'engine', 'build', 'plan', 'pack', 'repo', 'vm', 'guest'],
  pack: ['cli', 'ui', 'report', 'engine', 'build', 'plan', 'repo', 'image', 'vm', 'guest'],
  repo: ['cli', 'ui', 'report', 'engine', 'build', 'plan', 'image', 'vm', 'guest'],
  plan: ['cli', 'ui', 'report', 'engine', 'build', 'pack', 'repo', 'vm', 'guest'],
  build: ['cli', 'ui', 'report', 'engine'],
  engine: ['cli', 'ui', 'report'],
  report: ['cli', 'ui', 'engine', 'build', 'plan', 'pack', 'repo', 'image', 'distro', 'vm', 'guest'],
  ui: ['cli', 'report', 'engine', 'build', 'plan', 'pack', 'repo', 'image', 'distro', 'vm', 'guest'],
};

export default tseslint.config(
  { ignores: ['dist/**', 'coverage/**'] },
  ...tseslint.configs.recommendedTypeChecked,
  {
    languageOptions: {
      parserOptions: { projectService: { allowDefaultProject: ['eslint.config.js', 'scripts/*.mjs'] } },
    },
    rules: {
      '@typescript-eslint/no-floating-promises': 'error',
      '@typescript-eslint/restrict-template-expressions': ['error', { allowNumber: true }],
      '@typescript-eslint/no-unused-vars': ['error', { argsIgnorePattern: '^_', varsIgnorePattern: '^_' }],
    },
  },
  ...Object.entries(LAYERS).map(([folder, banned]) => ({
    files: [`src/${folder}/**/*.ts`],
    rules: {
      'no-restricted-imports': [
        'error',
        { patterns: [{ group: banned.map((b) => `**/${b}/**`), message: 'Imports point downward only.' }] },
      ],
    },
  })),
  { files: ['eslint.config.js', 'scripts/*.mjs'], ...tseslint.configs.disableTypeChecked },
);
