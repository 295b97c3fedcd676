import { spawn, spawnSync, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { existsSync } from 'node:fs';
import { createServer, type AddressInfo } from 'node:net';
import { fileURLToPath } from 'node:url';

const INSTALLED = fileURLToPath(new URL('../../../.cache/redis/redis-server', import.meta.url));

/** The Redis server on the PATH or installed by `npm run setup:redis`; undefined if there is none. */
export const redisServer = ['redis-server', INSTALLED].find(
  (command) => spawnSync(command, ['--version']).status === 0 || (command === INSTALLED && existsSync(INSTALLED)),
);

/** A separate Redis server without persistence: it forgets everything when it is killed. */
export class TestRedis {
  private child: ChildProcess | undefined;

  private constructor(
    readonly port: number,
    private readonly options: readonly string[],
  ) {}

  static async start(...options: string[]): Promise<TestRedis> {
    const probe = createServer().listen(0, '127.0.0.1');
    await once(probe, 'listening');
    const { port } = probe.address() as AddressInfo;
    probe.close();
    const redis = new TestRedis(port, options);
    await redis.start();
    return redis;
  }

  get url(): string {
    return `redis://127.0.0.1:${this.port}`;
  }

  async start(): Promise<void> {
    const args = [
      '--port',
      String(this.port),
      '--bind',
      '127.0.0.1',
      '--save',
      '',
      '--appendonly',
      'no',
      ...this.options,
    ];
    this.child = spawn(redisServer!, args, { stdio: ['ignore', 'pipe', 'inherit'] });
    let output = '';
    for await (const text of this.child.stdout!) {
      output += String(text);
      if (output.includes('Ready to accept connections')) break;
    }
    if (!output.includes('Ready to accept connections')) throw new Error(`redis-server did not start: ${output}`);
  }

  async kill(): Promise<void> {
    const ended = once(this.child!, 'exit');
    this.child!.kill('SIGKILL');
    await ended;
  }
}
