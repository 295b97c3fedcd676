import { spawn } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { homedir } from 'node:os';
import { dirname, isAbsolute, join } from 'node:path';

/** Versions and checksums of the npm packages with the artwork and its annotations: 133 MB. */
const PACKAGES = {
  openmoji: {
    version: '17.0.0',
    integrity: 'sha512-EBnYrNGdcdw+OSXmENeNE1yBNRu6tOraTmoOyUbJkTmvT/+XETp8RZLSJFzD3lrPc5N9CzsyPnRTk0Vp4UaI9w==',
  },
  '@twemoji/svg': {
    version: '15.0.0',
    integrity: 'sha512-ZSPef2B6nBaYnfgdTbAy4jgW95o7pi2xPGwGCU+WMTxo7J6B1lMPTWwSq/wTuiMq+N0khQ90CcvYp1wFoQpo/w==',
  },
  'emojibase-data': {
    version: '17.0.0',
    integrity: 'sha512-Yvgb5AWoHViHV/gq1qr5ZAarcBip+B27/ZLRsUJkbgAEaLlZ/fof9g882LTpmEpyhBNEC0m2SEmItljHsTygjA==',
  },
} as const;

/** Where the artwork is. */
export interface Artwork {
  /** Folder of the package openmoji. */
  readonly openmoji: string;
  /** Folder of the package @twemoji/svg. */
  readonly twemoji: string;
  /** JSON file of the English annotations of emojibase. */
  readonly annotations: string;
}

/**
 * Finds the artwork among the installed packages (in a clone of the repository) or in the user's cache. If it is in
 * neither, downloads it to that cache with npm.
 *
 * @param from a module: its packages are searched
 * @throws Error if the download fails, naming the packages to install
 */
export async function findArtwork(from: string | URL = import.meta.url): Promise<Artwork> {
  const installed = artworkFrom(from);
  if (installed) return installed;
  const cache = artworkCache();
  if (!existsSync(cache)) await download(cache);
  const cached = artworkFrom(join(cache, 'package.json'));
  if (!cached)
    throw new Error(`quickstart: the artwork in ${cache} is incomplete. Remove this folder and run the command again.`);
  return cached;
}

/** The artwork that a module at this place would import. */
function artworkFrom(place: string | URL): Artwork | undefined {
  const require = createRequire(place);
  try {
    return {
      openmoji: dirname(require.resolve('openmoji/package.json')),
      twemoji: dirname(require.resolve('@twemoji/svg/package.json')),
      annotations: require.resolve('emojibase-data/en/data.json'),
    };
  } catch {
    return undefined;
  }
}

/** Cache folder of the user, never relative to the working directory. Its name contains the versions of the packages. */
export function artworkCache(): string {
  const xdgCache = process.env['XDG_CACHE_HOME'];
  const cache = xdgCache && isAbsolute(xdgCache) ? xdgCache : join(homedir(), '.cache');
  const versions = Object.values(PACKAGES).map(({ version }) => version);
  return join(cache, 'flamingo-ts', `artwork-${versions.join('-')}`);
}

/** Installs the packages in a new folder and renames it, so that an interrupted download leaves no incomplete cache. */
async function download(folder: string): Promise<void> {
  mkdirSync(dirname(folder), { recursive: true });
  const temporary = mkdtempSync(`${folder}-`);
  try {
    const dependencies = Object.fromEntries(Object.entries(PACKAGES).map(([name, { version }]) => [name, version]));
    const locked = Object.fromEntries(Object.entries(PACKAGES).map(([name, entry]) => [`node_modules/${name}`, entry]));
    const manifest = { name: 'artwork', version: '0.0.0', private: true, dependencies };
    const lock = { ...manifest, lockfileVersion: 3, requires: true, packages: { '': manifest, ...locked } };
    writeFileSync(join(temporary, 'package.json'), JSON.stringify(manifest));
    writeFileSync(join(temporary, 'package-lock.json'), JSON.stringify(lock));
    process.stderr.write(`Downloading the emoji artwork of the quickstart (133 MB, once) to ${folder}\n`);
    await npmInstall(temporary);
    renameSync(temporary, folder);
  } catch (error) {
    rmSync(temporary, { recursive: true, force: true });
    const names = Object.entries(PACKAGES).map(([name, { version }]) => `${name}@${version}`);
    throw new Error(
      `quickstart: the emoji artwork could not be downloaded (${(error as Error).message}). Connect to the network and run the ` +
        `command again, or install the artwork next to the trainer: npm install ${names.join(' ')}`,
      { cause: error },
    );
  }
}

/** Runs `npm ci`, which verifies the checksums, without install scripts. */
function npmInstall(folder: string): Promise<void> {
  const args = ['ci', '--ignore-scripts', '--legacy-peer-deps', '--no-audit', '--no-fund', '--loglevel=error'];
  return new Promise((resolve, reject) => {
    const shell = process.platform === 'win32';
    const npm = spawn('npm', args, { cwd: folder, stdio: ['ignore', 'ignore', 'pipe'], shell });
    let errors = '';
    npm.stderr.on('data', (text: Buffer) => (errors += text.toString()));
    npm.on('error', reject);
    npm.on('close', (status) => {
      if (status === 0) resolve();
      else reject(new Error(errors.trim().split('\n')[0] || `npm ended with status ${status}`));
    });
  });
}
