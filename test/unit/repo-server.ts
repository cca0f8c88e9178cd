import { createHash } from 'node:crypto';
import { execFileSync } from 'node:child_process';
import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { gzipSync } from 'node:zlib';

export const sha256 = (data: Buffer | string): string => createHash('sha256').update(data).digest('hex');

/** A web server on 127.0.0.1 whose files are a map from path (with its query) to body or status code. */
export class FileServer {
  readonly files = new Map<string, Buffer | number>();
  readonly requests: string[] = [];
  private readonly server: Server = createServer((request, response) => {
    this.requests.push(request.url!);
    const body = this.files.get(decodeURIComponent(request.url!)) ?? 404;
    if (typeof body === 'number') response.writeHead(body).end();
    else response.end(request.method === 'HEAD' ? undefined : body);
  });

  async open(): Promise<this> {
    await new Promise<void>((resolve) => this.server.listen(0, '127.0.0.1', resolve));
    return this;
  }

  get origin(): string {
    return `http://127.0.0.1:${(this.server.address() as AddressInfo).port}`;
  }

  put(path: string, body: string | Buffer = ''): void {
    this.files.set(path, Buffer.from(body));
  }

  close(): void {
    this.server.close();
  }
}

export interface Rpm {
  name: string;
  /** `version-release`, with `epoch:` in front when there is one. */
  evr: string;
  arch?: string;
  /** What it provides as `kernel-uname-r`; by default what `uname -r` will say. */
  unameR?: string;
}

/** A repository as createrepo_c lays it out, with its primary metadata packed as told. */
export function putRepo(
  server: FileServer,
  path: string,
  rpms: readonly Rpm[],
  pack: 'gz' | 'xz' | 'zst' = 'gz',
): void {
  const packages = rpms.map(({ name, evr, arch = 'x86_64', unameR }) => {
    const [, epoch = '0', version, release] = /^(?:(\d+):)?([^-]+)-(.+)$/.exec(evr)!;
    const [ver, ...rel] = (
      unameR ?? `${version!}-${release!}.${arch}${/-rt\b/.test(name) ? '+rt' : ''}`
    ).split('-');
    const file = `${name}-${version!}-${release!}.${arch}.rpm`;
    return `<package type="rpm">
  <name>${name}</name>
  <arch>${arch}</arch>
  <version epoch="${epoch}" ver="${version!}" rel="${release!}"/>
  <checksum type="sha256" pkgid="YES">${sha256(file)}</checksum>
  <summary>The Linux kernel &amp; its modules</summary>
  <description>kernel-core &lt;name&gt;bash&lt;/name&gt;</description>
  <packager>builder</packager>
  <url>https://www.kernel.org/</url>
  <time file="1700000000" build="1700000000"/>
  <size package="1" installed="1" archive="1"/>
  <location href="Packages/k/${file}"/>
  <format>
    <rpm:license>GPLv2</rpm:license>
    <rpm:provides>
      <rpm:entry name="${name}" flags="EQ" epoch="${epoch}" ver="${version!}" rel="${release!}"/>
      <rpm:entry name="kernel-uname-r" flags="EQ" ver="${ver!}" rel="${rel.join('-')}"/>
    </rpm:provides>
    <file>/boot/vmlinuz</file>
  </format>
</package>`;
  });
  const xml = `<?xml version="1.0" encoding="UTF-8"?>
<metadata xmlns="http://linux.duke.edu/metadata/common" xmlns:rpm="http://linux.duke.edu/metadata/rpm" packages="${rpms.length}">
${packages.join('\n')}
</metadata>`;
  const tool = { xz: ['xz', '-c'], zst: ['zstd', '-cq'] } as const;
  const packed = pack === 'gz' ? gzipSync(xml) : execFileSync(tool[pack][0], [tool[pack][1]], { input: xml });
  const name = `repodata/${sha256(packed)}-primary.xml.${pack}`;
  server.put(
    `${path}/repodata/repomd.xml`,
    `<?xml version="1.0" encoding="UTF-8"?>
<repomd xmlns="http://linux.duke.edu/metadata/repo" xmlns:rpm="http://linux.duke.edu/metadata/rpm">
  <revision>1700000000</revision>
  <data type="filelists"><checksum type="sha256">${'0'.repeat(64)}</checksum><location href="repodata/x-filelists.xml.gz"/></data>
  <data type="primary">
    <checksum type="sha256">${sha256(packed)}</checksum>
    <open-checksum type="sha256">${sha256(xml)}</open-checksum>
    <location href="${name}"/>
    <timestamp>1700000000</timestamp>
    <size>${packed.length}</size>
    <open-size>${xml.length}</open-size>
  </data>
</repomd>`,
  );
  server.put(`${path}/${name}`, packed);
}
