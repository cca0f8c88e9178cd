// `tsc --noEmit` and `eslint .` over the same programs: the types are most of the work of both. Used by scripts/check.
import { ESLint } from 'eslint';
import ts from 'typescript';

const host = {
  ...ts.sys,
  getCanonicalFileName: (path) => path,
  getNewLine: () => '\n',
  onUnRecoverableConfigFileDiagnostic: (wrong) => {
    throw new Error(ts.flattenDiagnosticMessageText(wrong.messageText, '\n'));
  },
};
// What runs in a browser knows another world than Node's.
const configs = ['tsconfig.json', 'src/report/page/tsconfig.json', 'test/browser/tsconfig.json'];
const programs = configs.map((path) => {
  const config = ts.getParsedCommandLineOfConfigFile(path, { noEmit: true }, host);
  return ts.createProgram({
    rootNames: config.fileNames,
    options: config.options,
    configFileParsingDiagnostics: config.errors,
  });
});
const wrong = programs.flatMap((program) => ts.getPreEmitDiagnostics(program));
process.stdout.write(ts.formatDiagnostics(wrong, host));

// In place of the project service, which would make a program of its own; all else is eslint.config.js.
const languageOptions = { parserOptions: { projectService: false, programs } };
const eslint = new ESLint({ overrideConfig: { files: ['**/*.ts', 'src/**/*.js'], languageOptions } });
const results = await eslint.lintFiles('.');
process.stdout.write(await (await eslint.loadFormatter('stylish')).format(results));

const failed = wrong.length > 0 || results.some((file) => file.errorCount > 0);
process.exitCode = failed ? 1 : 0;
