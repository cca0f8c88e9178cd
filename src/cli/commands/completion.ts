import { oneLine } from '../../lib/text.js';
import { complete } from '../complete.js';
import { command, type Command } from '../frame.js';

// Each asks `dkms2bin complete` for lines of a word, a tab and its meaning; the line ":files" stands for names of files.
const SCRIPTS: Readonly<Record<string, string>> = {
  bash: `_dkms2bin() {
  local line current=\${COMP_WORDS[COMP_CWORD]}
  COMPREPLY=()
  # At = and : bash begins a word of its own; what completes a word after = is the part behind it.
  [[ $current == = ]] && current=
  while IFS= read -r line; do
    if [[ $line == :files ]]; then
      compopt -o filenames 2>/dev/null
      while IFS= read -r line; do COMPREPLY+=("$line"); done < <(compgen -f -- "$current")
    else
      COMPREPLY+=("\${line%%$'\\t'*}")
    fi
  done < <("\${COMP_WORDS[0]}" complete -- "\${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null)
}
complete -F _dkms2bin dkms2bin
`,
  zsh: `#compdef dkms2bin
_dkms2bin() {
  local line files=0
  local -a found
  while IFS= read -r line; do
    if [[ $line == :files ]]; then
      files=1
    else
      found+=("\${\${line%%$'\\t'*}//:/\\\\:}:\${line#*$'\\t'}")
    fi
  done < <("\${words[1]}" complete -- "\${(@)words[2,CURRENT]}" 2>/dev/null)
  (( \${#found} )) && _describe dkms2bin found
  (( files )) && _files
}
if [[ $funcstack[1] == _dkms2bin ]]; then
  _dkms2bin "$@"
else
  compdef _dkms2bin dkms2bin
fi
`,
  fish: `function __dkms2bin_complete
    set -l words (commandline -opc) (commandline -ct)
    for line in ($words[1] complete -- $words[2..-1] 2>/dev/null)
        if test "$line" = ":files"
            __fish_complete_path (commandline -ct)
        else
            echo $line
        end
    end
end
complete -c dkms2bin -f -a '(__dkms2bin_complete)'
`,
};

export const completion = command({
  name: 'completion',
  summary: 'print a script that completes commands, options and values in a shell',
  description:
    'Prints a script by which a shell completes commands, options and their values: distributions, kernels in the lists that the cache has, kept VMs, files.',
  arguments: [{ name: '<shell>', help: 'the shell', choices: Object.keys(SCRIPTS) }],
  notes: `bash: put  source <(dkms2bin completion bash)  into ~/.bashrc
zsh:  put  source <(dkms2bin completion zsh)  into ~/.zshrc, after compinit
fish: dkms2bin completion fish > ~/.config/fish/completions/dkms2bin.fish`,
  run: ({ words: [shell = ''] }, { stdout }) => {
    stdout.write(SCRIPTS[shell] ?? '');
    return Promise.resolve();
  },
});

/** Not for people: what the scripts call. `commands` are those that it completes. */
export const completeFor = (commands: readonly Command[]): Command =>
  command({
    name: 'complete',
    description: 'Prints what completes the last of the words, for the scripts of dkms2bin completion.',
    arguments: [{ name: '[words...]', help: 'what is typed so far, after --' }],
    run: async ({ words }, context) => {
      // A shell has no use for an error here.
      const found = await complete(words, commands, context).catch(() => ({ words: [], files: false }));
      const lines = found.words.map(([word, meaning]) => `${oneLine(word)}\t${oneLine(meaning)}\n`);
      context.stdout.write(lines.join('') + (found.files ? ':files\n' : ''));
    },
  });
