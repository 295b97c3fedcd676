/**
 * Finds a Chromium for the browser tests, or installs Debian's package when run as root. `CHROMIUM_PATH` selects another
 * browser.
 */
import { spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { pathToFileURL } from 'node:url';

/** The path of an installed Chromium or Chrome; undefined if there is none. */
export function findChromium(): string | undefined {
  const usual = ['chromium', 'chromium-browser', 'google-chrome'].map((name) => `/usr/bin/${name}`);
  const mac = '/Applications/Google Chrome.app/Contents/MacOS/Google Chrome';
  return [process.env['CHROMIUM_PATH'], ...usual, mac].find((file) => file && existsSync(file));
}

function install(): void {
  if (process.getuid?.() !== 0) throw new Error('installing a package requires root');
  for (const args of [['update'], ['install', '-y', '--no-install-recommends', 'chromium']]) {
    const { status, error, stderr } = spawnSync('apt-get', args, { encoding: 'utf8' });
    if (status !== 0) throw new Error(`apt-get ${args[0]} failed: ${error?.message ?? stderr.trim()}`);
  }
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? '').href) {
  try {
    if (!findChromium()) install();
    console.log(`setup:chromium: found ${findChromium()}`);
  } catch (error) {
    console.error(
      `setup:chromium: could not install Chromium: ${(error as Error).message}. Without it, browser tests are skipped.`,
    );
    console.error('Install Chromium or Chrome, or set CHROMIUM_PATH to its path.');
    process.exit(1);
  }
}
