// `tsc --noEmit` and `eslint .` over one program: the types are most of the work of both. Used by scripts/check.
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
const config = ts.getParsedCommandLineOfConfigFile('tsconfig.json', { noEmit: true }, host);
const program = ts.createProgram({
  rootNames: config.fileNames,
  options: config.options,
  configFileParsingDiagnostics: config.errors,
});
const wrong = ts.getPreEmitDiagnostics(program);
process.stdout.write(ts.formatDiagnostics(wrong, host));

// In place of the project service, which would make a program of its own; all else is eslint.config.js.
const languageOptions = { parserOptions: { projectService: false, programs: [program] } };
const eslint = new ESLint({ overrideConfig: { files: ['**/*.ts'], languageOptions } });
const results = await eslint.lintFiles('.');
process.stdout.write(await (await eslint.loadFormatter('stylish')).format(results));

const failed = wrong.length > 0 || results.some((file) => file.errorCount > 0);
process.exitCode = failed ? 1 : 0;
