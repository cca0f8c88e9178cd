import { execaSync } from 'execa';
import { chromium, type Browser } from 'playwright-core';

const succeeds = (command: string, ...args: string[]): boolean =>
  execaSync(command, args, { reject: false, stdio: 'ignore' }).exitCode === 0;

/** The distro's Chromium; null where none is installed. */
export async function startChromium(): Promise<Browser | null> {
  const found = execaSync('sh', ['-c', 'command -v chromium || command -v google-chrome'], { reject: false });
  if (found.exitCode !== 0) return null;
  // Its sandbox refuses root, and is made of user namespaces, which many a container has not.
  const sandbox = process.getuid?.() !== 0 && succeeds('unshare', '--user', '--map-root-user', 'true');
  return chromium.launch({ executablePath: found.stdout.trim(), chromiumSandbox: sandbox });
}
