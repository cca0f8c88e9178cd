import { isAbsolute, join } from 'node:path';
import { DEB_ARCH, type Arch } from '../model/cell.js';
import { messageOf } from '../model/errors.js';
import type { CatalogueArch, CatalogueRow } from './catalogue-schema.js';
import { NAME_PROBE } from './packages.js';
import { fill } from './templates.js';

/** Placeholders that a kernel, its architecture or `--mirror` fills later. */
const LATER = { mirror: '{mirror}', arch: '{arch}', minor: '{minor}' };

/** Fills the row's templates in place. Fresh objects come from zod, so shared YAML anchors stay untouched. */
export function fillRow(
  row: CatalogueRow,
  dir: string,
  mistake: (field: string, message: string) => void,
): void {
  const filler = new Filler(row, dir, mistake);
  for (const [arch, entry] of Object.entries(row.arch) as [Arch, CatalogueArch | undefined][])
    if (entry) filler.arch(arch, entry);
  filler.mirrors();
  filler.suites();
  filler.repos('repos', row.repos);
  filler.repos('epel.repos', row.epel?.repos ?? []);
  filler.archives();
  filler.packages();
}

type Values = Readonly<Record<string, string>>;

class Filler {
  private readonly values: Values;

  constructor(
    private readonly row: CatalogueRow,
    private readonly dir: string,
    private readonly mistake: (field: string, message: string) => void,
  ) {
    this.values = { domain: row.domain, codename: row.codename, version: row.version };
  }

  /** What `work` makes; a template that cannot be filled is a mistake and stays as it is. */
  private attempt(field: string, template: string, work: () => string): string {
    try {
      return work();
    } catch (error) {
      this.mistake(field, messageOf(error));
      return template;
    }
  }

  private text(field: string, template: string, values: Values = this.values): string {
    return this.attempt(field, template, () => fill(template, values));
  }

  private url(field: string, template: string, values: Values = this.values): string {
    return this.attempt(field, template, () => {
      const filled = fill(template, values);
      if (!URL.canParse(filled)) throw new Error(`not a URL: ${filled}`);
      return filled;
    });
  }

  arch(arch: Arch, { image, mirrors }: CatalogueArch): void {
    const values = { ...this.values, arch, debArch: DEB_ARCH[arch] };
    const at = `arch.${arch}`;
    image.url = this.url(`${at}.image.url`, image.url, values);
    if (/\*/.test(image.url.replace(/[^/]*$/, '')) || (image.url.match(/\*/g) ?? []).length > 1)
      this.mistake(`${at}.image.url`, 'one * at most, in the last part');
    image.sums.url = this.url(`${at}.image.sums.url`, image.sums.url, values);
    this.signature(`${at}.image.signature`, image.signature, values);
    if (mirrors) mirrors.main = this.url(`${at}.mirrors.main`, mirrors.main, values);
    if (mirrors?.security) mirrors.security = this.url(`${at}.mirrors.security`, mirrors.security, values);
  }

  private signature(at: string, signature: CatalogueArch['image']['signature'], values: Values): void {
    if (signature.kind === 'none') return;
    if (signature.url) signature.url = this.url(`${at}.url`, signature.url, values);
    if (signature.keyUrl) signature.keyUrl = this.url(`${at}.keyUrl`, signature.keyUrl, values);
    this.keyFile(at, signature);
  }

  private keyFile(at: string, key: { keyFile?: string | undefined; keyUrl?: string | undefined }): void {
    if (key.keyFile && !isAbsolute(key.keyFile)) key.keyFile = join(this.dir, key.keyFile);
    if (!key.keyFile && !key.keyUrl) this.mistake(at, 'keyFile or keyUrl is missing');
  }

  mirrors(): void {
    const { mirrors } = this.row;
    mirrors.main = this.url('mirrors.main', mirrors.main);
    if (mirrors.security) mirrors.security = this.url('mirrors.security', mirrors.security);
    if (mirrors.old) mirrors.old = this.url('mirrors.old', mirrors.old);
  }

  suites(): void {
    const { suites, mirrors, proposed, packageManager, repos } = this.row;
    suites.forEach((suite, index) => {
      suite.name = this.text(`suites.${index}.name`, suite.name);
      if (suite.mirror === 'security' && !mirrors.security) {
        this.mistake(`suites.${index}.mirror`, 'the row has no mirrors.security');
      }
    });
    if (proposed !== undefined) this.row.proposed = this.text('proposed', proposed);
    const [field, list] = packageManager === 'apt' ? ['suites', suites] : ['repos', repos];
    if (list.length === 0) this.mistake(field, 'must not be empty: kernels could not be listed');
  }

  repos(at: string, repos: CatalogueRow['repos']): void {
    const values = { ...this.values, ...LATER };
    repos.forEach((repo, i) => {
      repo.url = this.text(`${at}.${i}.url`, repo.url, values);
      const { key } = repo;
      if (!key) return;
      if (key.keyUrl) key.keyUrl = this.text(`${at}.${i}.key`, key.keyUrl, values);
      this.keyFile(`${at}.${i}.key`, key);
    });
  }

  archives(): void {
    const values = { ...this.values, ...LATER };
    this.row.archives.forEach((archive, i) => {
      if (archive.kind === 'vault') {
        archive.repos = archive.repos.map((each) => this.text(`archives.${i}.repos`, each, values));
      } else archive.url = this.url(`archives.${i}.url`, archive.url);
    });
  }

  /** Tries them with some release, so that a misspelt placeholder shows when the catalogue is read and not in a build. */
  packages(): void {
    const { packages } = this.row;
    for (const set of [packages, ...packages.variants]) {
      for (const field of ['image', 'modules', 'extra', 'headers'] as const)
        for (const template of set[field]) this.text(`packages.${field}`, template, NAME_PROBE);
    }
  }
}
