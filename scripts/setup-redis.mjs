#!/usr/bin/env node
/**
 * Installs a Redis server without root on Debian and Ubuntu, for the tests of extraction on several machines: unpacks the
 * distribution's own packages into .cache/redis, where those tests look. Does nothing if a server is on the PATH.
 */
import { spawnSync } from 'node:child_process';
import { chmodSync, existsSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { withPackages } from './debian-packages.mjs';

const home = resolve(import.meta.dirname, '..', '.cache', 'redis');
const server = join(home, 'redis-server');

const works = (command) => spawnSync(command, ['--version']).status === 0;

const install = () =>
  withPackages(home, '^redis-server$', ['redis-tools', 'libatomic1', 'libjemalloc2', 'liblzf1'], (unpacked) => {
    rmSync(join(home, 'unpacked'), { recursive: true, force: true });
    renameSync(unpacked, join(home, 'unpacked'));
    // The system's loader does not search the folder of its libraries.
    writeFileSync(
      server,
      `#!/bin/sh\nhere=$(dirname "$(readlink -f "$0")")\nfor lib in "$here"/unpacked/usr/lib/*-linux-gnu*; do\n` +
        `  export LD_LIBRARY_PATH="$lib\${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"\ndone\n` +
        `exec "$here/unpacked/usr/bin/redis-server" "$@"\n`,
    );
    chmodSync(server, 0o755);
    if (!works(server)) throw new Error('the unpacked server does not start');
    return server;
  });

if (works('redis-server')) console.log('setup:redis: redis-server is on the PATH');
else if (existsSync(server) && works(server)) console.log(`setup:redis: already installed: ${server}`);
else {
  try {
    console.log(`setup:redis: installed ${install()}`);
  } catch (error) {
    console.error(`setup:redis: could not install Redis: ${error.message}`);
    console.error(
      'Without it, tests of extraction on several machines are skipped. To install it: apt-get install redis-server.',
    );
    process.exit(1);
  }
}
