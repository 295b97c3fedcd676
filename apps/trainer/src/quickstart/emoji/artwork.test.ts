import { cpSync, existsSync, mkdirSync, mkdtempSync, readdirSync, rmSync, symlinkSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { artworkCache, findArtwork } from './artwork';

let folder: string;
/** A module outside the repository, whose packages are not installed. */
let elsewhere: string;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'flamingo-artwork-'));
  elsewhere = join(folder, 'app', 'index.js');
  vi.stubEnv('XDG_CACHE_HOME', join(folder, 'cache'));
});
afterEach(() => {
  vi.unstubAllEnvs();
  vi.restoreAllMocks();
  rmSync(folder, { recursive: true });
});

describe('the artwork', () => {
  it('comes from the installed packages in a clone', async () => {
    const { openmoji, twemoji, annotations } = await findArtwork();
    expect([join(openmoji, 'color', 'svg'), twemoji, annotations].map((path) => existsSync(path))).toEqual([
      true,
      true,
      true,
    ]);
    expect(existsSync(artworkCache())).toBe(false);
  });

  it("comes from the user's cache if it is not installed", async () => {
    const modules = join(artworkCache(), 'node_modules');
    mkdirSync(join(modules, '@twemoji'), { recursive: true });
    const { openmoji, twemoji, annotations } = await findArtwork();
    symlinkSync(openmoji, join(modules, 'openmoji'));
    symlinkSync(twemoji, join(modules, '@twemoji', 'svg'));
    await expect(findArtwork(elsewhere)).rejects.toThrow(/artwork in .* is incomplete\. Remove this folder/);
    mkdirSync(join(modules, 'emojibase-data', 'en'), { recursive: true });
    cpSync(annotations, join(modules, 'emojibase-data', 'en', 'data.json'));
    expect(await findArtwork(elsewhere)).toEqual({
      openmoji,
      twemoji,
      annotations: join(modules, 'emojibase-data', 'en', 'data.json'),
    });
  });

  it('reports a failed download with the packages to install, and leaves no files', async () => {
    vi.spyOn(process.stderr, 'write').mockReturnValue(true);
    // Nothing listens on this port, and npm has nothing cached.
    vi.stubEnv('npm_config_registry', 'http://127.0.0.1:9');
    vi.stubEnv('npm_config_fetch_retries', '0');
    vi.stubEnv('npm_config_cache', join(folder, 'npm'));
    await expect(findArtwork(elsewhere)).rejects.toThrow(
      /could not be downloaded \(.*\)\. Connect to the network .* npm install openmoji@17\.0\.0 @twemoji\/svg@15\.0\.0 emojibase-data@17\.0\.0/s,
    );
    expect(readdirSync(dirname(artworkCache()))).toEqual([]);
  }, 60_000);
});
