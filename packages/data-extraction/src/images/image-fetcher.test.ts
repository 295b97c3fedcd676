import { execFileSync, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import http, { type IncomingMessage, type RequestListener, type ServerResponse } from 'node:http';
import https from 'node:https';
import net, { type AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { gzipSync } from 'node:zlib';
import { afterEach, describe, expect, it } from 'vitest';
import { optedOut } from '../pages/opt-out';
import { isPublicAddress, ImageFetcher } from './image-fetcher';
import { IMAGE_LIMITS } from './image-info';

const PNG = Buffer.from(
  'iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR4nGNgYGBgAAAABQABpfZFQAAAAABJRU5ErkJggg==',
  'base64',
);
const png = (response: ServerResponse, headers: Record<string, string | string[]> = {}) =>
  response.writeHead(200, { 'content-type': 'image/png', ...headers }).end(PNG);

const endings: (() => Promise<unknown>)[] = [];
afterEach(async () => {
  for (const end of endings.splice(0).reverse()) await end();
});

async function listen(server: net.Server, host?: string): Promise<number> {
  const sockets = new Set<net.Socket>();
  server.on('connection', (socket) => {
    sockets.add(socket);
    socket.on('error', () => {}).on('close', () => sockets.delete(socket));
  });
  server.listen(0, host);
  await once(server, 'listening');
  endings.push(async () => {
    server.close();
    for (const socket of sockets) socket.destroy();
    await once(server, 'close');
  });
  return (server.address() as AddressInfo).port;
}

/** A web server that counts requests. Without `robots` it has no robots.txt. */
async function serve(handler: RequestListener, robots?: string | RequestListener) {
  const seen = { connections: 0, open: 0, requests: [] as IncomingMessage[], robots: 0, port: 0, url: '' };
  const server = http.createServer((request, response) => {
    if (request.url !== '/robots.txt') {
      seen.requests.push(request);
      return void handler(request, response);
    }
    seen.robots++;
    if (typeof robots === 'function') return void robots(request, response);
    response.writeHead(robots === undefined ? 404 : 200).end(robots);
  });
  server.on('connection', (socket) => {
    seen.connections++;
    seen.open++;
    socket.on('close', () => seen.open--);
  });
  seen.port = await listen(server);
  seen.url = `http://127.0.0.1:${seen.port}`;
  return seen;
}

function fetcher(options: ConstructorParameters<typeof ImageFetcher>[0] = {}): ImageFetcher {
  const made = new ImageFetcher({ isPublic: (address) => address === '127.0.0.1', ...options });
  endings.push(() => made.close());
  return made;
}

describe('ImageFetcher', () => {
  it('sends nothing but our name and the URL', async () => {
    const server = await serve((_, response) => png(response, { 'set-cookie': 'a=b' }), 'user-agent: *');
    const images = fetcher();
    expect(await images.fetch(`${server.url}/a.png?b=c#d`)).toEqual(PNG);
    expect(await images.fetch(`${server.url}/a.png`)).toEqual(PNG);
    expect(server.requests.map((request) => request.url)).toEqual(['/a.png?b=c', '/a.png']);
    for (const { headers } of server.requests) {
      expect(Object.keys(headers).sort()).toEqual(['accept', 'accept-encoding', 'connection', 'host', 'user-agent']);
      expect(headers['user-agent']).toMatch(/^flamingo-ts /);
    }
    expect(server.robots).toBe(1);
    expect(server.connections).toBe(1);
  });

  it('accepts images without a content type', async () => {
    const types: Record<string, string | undefined> = {
      '/none': undefined,
      '/bytes': 'application/octet-stream',
      '/jpeg': 'image/jpeg; charset=utf-8',
      '/svg': 'image/svg+xml',
      '/html': 'text/html',
    };
    const server = await serve((request, response) => {
      const type = types[request.url!];
      response.writeHead(200, type ? { 'content-type': type } : {}).end(PNG);
    });
    const images = fetcher();
    for (const name of ['/none', '/bytes', '/jpeg']) expect(await images.fetch(server.url + name)).toEqual(PNG);
    for (const name of ['/svg', '/html']) expect(await images.fetch(server.url + name)).toBe('not an image');
  });

  it('stops reading if the first bytes are not an image', async () => {
    const server = await serve((request, response) => {
      response.writeHead(200, { 'content-type': 'image/png' });
      if (request.url === '/short') return void response.end('GIF89a');
      // Never ends: a fetcher that continued to read would time out.
      response.write('<html> this never ends');
    });
    const images = fetcher();
    expect(await images.fetch(`${server.url}/html`)).toBe('not an image');
    expect(await images.fetch(`${server.url}/short`)).toBe('not an image');
  });

  it('returns the status of a missing image', async () => {
    const server = await serve((request, response) => {
      response.writeHead(Number(request.url!.slice(1)), { 'content-type': 'image/png' }).end();
    });
    const images = fetcher();
    for (const status of [204, 304, 403, 404, 410, 500, 503]) {
      expect(await images.fetch(`${server.url}/${status}`)).toBe(`status ${status}`);
    }
  });

  it('fails if there is no server, no HTTP, or the connection breaks', async () => {
    const server = await serve((_, response) => {
      response.writeHead(200, { 'content-type': 'image/png', 'content-length': '1000' });
      response.write(PNG, () => response.destroy());
    });
    const garbage = await listen(net.createServer((socket) => socket.end('SSH-2.0-OpenSSH\r\n')));
    const upgrade = 'HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n';
    const upgrading = await listen(net.createServer((socket) => socket.end(upgrade)));
    const headers = `HTTP/1.1 200 OK\r\n${`x: ${'y'.repeat(1000)}\r\n`.repeat(100)}\r\n`;
    const longHeaders = await listen(net.createServer((socket) => socket.end(headers)));
    const gone = net.createServer();
    gone.listen(0, '127.0.0.1');
    await once(gone, 'listening');
    const { port } = gone.address() as AddressInfo;
    gone.close();
    const images = fetcher();
    expect(await images.fetch(`${server.url}/a.png`)).toBe('failed');
    for (const other of [garbage, upgrading, longHeaders, port]) {
      expect(await images.fetch(`http://127.0.0.1:${other}/a.png`)).toBe('failed');
    }
    expect(await images.fetch('http://no-such-host.invalid/a.png')).toBe('failed');
  });
});

describe('addresses', () => {
  it('rejects URLs that do not name a web server', async () => {
    const images = new ImageFetcher();
    endings.push(() => images.close());
    const long = `http://example.org/${'a'.repeat(3000)}`;
    for (const url of ['', 'a.png', 'ftp://example.org/a', 'file:///etc/passwd', 'data:image/png,a', 'http://', long]) {
      expect(await images.fetch(url), url).toBe('invalid URL');
    }
    for (const url of [
      'http://a:b@example.org/',
      'http://a@example.org/',
      'http://example.org:25/',
      'https://1.1.1.1:22/',
    ])
      expect(await images.fetch(url), url).toBe('invalid URL');
  });

  const PRIVATE =
    '127.0.0.1 127.1 0x7f000001 2130706433 017700000001 0177.0.0.1 127.0.0.1. 0.0.0.0 0 10.0.0.1 172.16.0.1 192.168.1.1 169.254.169.254 100.64.0.1 192.0.0.1 192.0.2.1 198.18.0.1 198.51.100.1 203.0.113.1 224.0.0.1 240.0.0.1 255.255.255.255 [::] [::1] [::127.0.0.1] [::ffff:127.0.0.1] [::ffff:0:127.0.0.1] [64:ff9b::7f00:1] [64:ff9b:1::7f00:1] [2002:7f00:1::1] [2001:0:7f00:1::1] [2001:db8::1] [3fff::1] [fe80::1] [fec0::1] [fc00::1] [fd12::1] [ff02::1] [100::1] [4000::1]'.split(
      ' ',
    );

  it('connects to public addresses only', async () => {
    const server = await serve((_, response) => png(response));
    // The default rule, on a port of a server that counts connections.
    const images = fetcher({ isPublic: isPublicAddress });
    const byDefault = new ImageFetcher();
    endings.push(() => byDefault.close());
    for (const host of [...PRIVATE, 'localhost', 'localhost.', 'LOCALHOST']) {
      expect(await images.fetch(`http://${host}:${server.port}/a.png`), host).toBe('private address');
      expect(await images.fetch(`https://${host}:${server.port}/a.png`), host).toBe('private address');
      expect(await byDefault.fetch(`http://${host}/a.png`), host).toBe('private address');
    }
    expect(server.connections).toBe(0);
  });

  it('recognizes public addresses', () => {
    for (const address of ['1.1.1.1', '93.184.216.34', '172.32.0.1', '100.128.0.1', '2606:4700::1111', '2a00:1450::1'])
      expect(isPublicAddress(address), address).toBe(true);
    for (const address of ['', 'example.org', '256.0.0.1', '::ffff:1.1.1.1', 'fe80::1%eth0'])
      expect(isPublicAddress(address), address).toBe(false);
  });

  it('checks addresses again after a redirect, and for robots.txt', async () => {
    const inner = await serve((_, response) => png(response));
    const targets = ['127.0.0.2', '[::1]', '[::ffff:127.0.0.1]', '169.254.169.254'];
    const redirect = (request: IncomingMessage, response: ServerResponse) =>
      response
        .writeHead(302, { location: `http://${targets[Number(request.url!.slice(1))]}:${inner.port}/a.png` })
        .end();
    const server = await serve(redirect);
    const images = fetcher();
    for (const i of targets.keys()) expect(await images.fetch(`${server.url}/${i}`)).toBe('private address');
    const outer = await serve(
      (_, response) => png(response),
      (_, response) => response.writeHead(301, { location: `http://127.0.0.2:${inner.port}/robots.txt` }).end(),
    );
    expect(await images.fetch(`${outer.url}/a.png`)).toBe('private address');
    expect([inner.connections, outer.requests.length]).toEqual([0, 0]);
  });

  it('checks the address of a name on each connection', async () => {
    const server = await serve((_, response) => png(response, { connection: 'close' }));
    let isPublic = true;
    const images = fetcher({ isPublic: () => isPublic });
    expect(await images.fetch(`http://localhost:${server.port}/a.png`)).toEqual(PNG);
    isPublic = false;
    expect(await images.fetch(`http://localhost:${server.port}/b.png`)).toBe('private address');
    expect(server.requests).toHaveLength(1);
  });
});

describe('limits', () => {
  it('rejects images whose declared or actual size is too large', async () => {
    const chunk = Buffer.alloc(2 ** 20);
    let sent = 0;
    const server = await serve((request, response) => {
      if (request.url === '/declared') {
        const length = String(IMAGE_LIMITS.bytes + 1);
        return void response.writeHead(200, { 'content-type': 'image/png', 'content-length': length }).write(PNG);
      }
      response.writeHead(200, { 'content-type': 'image/png' }).write(PNG);
      const more = () => {
        while (!response.destroyed && response.write(chunk)) sent += chunk.length;
        sent += chunk.length;
      };
      response.on('drain', more);
      more();
    });
    const images = fetcher();
    expect(await images.fetch(`${server.url}/declared`)).toBe('too large');
    expect(await images.fetch(`${server.url}/endless`)).toBe('too large');
    expect(sent).toBeLessThan(2 * IMAGE_LIMITS.bytes);
  });

  it('does not decompress encoded responses', async () => {
    const bomb = gzipSync(Buffer.alloc(2 ** 24));
    const server = await serve((_, response) =>
      response.writeHead(200, { 'content-type': 'image/png', 'content-encoding': 'gzip' }).end(bomb),
    );
    expect(await fetcher().fetch(`${server.url}/a.png`)).toBe('encoded');
  });

  it('times out on a server that is slow, silent, or alternates between both', async () => {
    const drip = async (response: ServerResponse) => {
      response.writeHead(200, { 'content-type': 'image/png' }).write(PNG);
      while (!response.destroyed && response.write('.')) await sleep(20);
    };
    const server = await serve((request, response) => {
      if (request.url === '/drip') void drip(response);
      const after = request.url!.startsWith('/turn') ? 150 : undefined;
      if (after) setTimeout(() => response.writeHead(302, { location: `${request.url}+` }).end(), after);
    });
    const images = fetcher({ timeoutMs: 400 });
    for (const name of ['/drip', '/silent', '/turn']) expect(await images.fetch(server.url + name)).toBe('too slow');
    const silent = await serve(
      (_, response) => png(response),
      () => {},
    );
    expect(await images.fetch(`${silent.url}/a.png`)).toBe('too slow');
  });

  it('does not count the wait for other images of a host as slow', async () => {
    const server = await serve((_, response) => setTimeout(() => png(response), 150));
    const images = fetcher({ timeoutMs: 1000 });
    const names = Array.from({ length: 10 }, (_, i) => images.fetch(`${server.url}/${i}`));
    expect(await Promise.all(names)).toEqual(names.map(() => PNG));
  });

  it('follows five redirects', async () => {
    const server = await serve((request, response) => {
      const left = Number(request.url!.slice(1));
      if (left === 0) return void png(response);
      response.writeHead([301, 302, 303, 307, 308][left % 5]!, { location: String(left - 1) }).end();
    });
    const images = fetcher();
    expect(await images.fetch(`${server.url}/5`)).toEqual(PNG);
    expect(await images.fetch(`${server.url}/6`)).toBe('too many redirects');
    const loop = await serve((_, response) => response.writeHead(302, { location: '/again' }).end());
    expect(await images.fetch(`${loop.url}/again`)).toBe('too many redirects');
    expect(loop.requests).toHaveLength(6);
    for (const location of ['http://', 'ftp://127.0.0.1/a', 'http://a:b@127.0.0.1/a', 'javascript:alert(1)']) {
      const away = await serve((_, response) => response.writeHead(302, { location }).end());
      expect(await images.fetch(`${away.url}/a`)).toBe('invalid URL');
    }
  });
});

describe('robots.txt', () => {
  it('applies the rules for our name, or else those for all agents', async () => {
    const ours =
      'User-agent: *\nDisallow: /\n\nUser-agent: other\nUser-Agent: Flamingo-TS/2\nDisallow: /no # why\nAllow: /no/b';
    const server = await serve((_, response) => png(response), `\ufeff${ours}\nSitemap: x\nDisallow: /a*z.png$`);
    const images = fetcher();
    const allowed = ['/yes', '/no/b', '/a/z.png?c', '/NO'];
    for (const name of allowed) expect(await images.fetch(server.url + name), name).toEqual(PNG);
    for (const name of ['/no', '/nothing', '/%6eo', '/yes/../no', '/a/b/z.png'])
      expect(await images.fetch(server.url + name), name).toBe('robots');
    expect([server.robots, server.requests.length]).toEqual([1, allowed.length]);
    const all = await serve(
      (_, response) => png(response),
      'user-agent: *\r\ndisallow: /%70rivate\r\n\r\nuser-agent: b\r\ndisallow: /',
    );
    expect(await images.fetch(`${all.url}/private/a`)).toBe('robots');
    expect(await images.fetch(`${all.url}/public`)).toEqual(PNG);
  });

  it.each([
    [404, true],
    [403, true],
    [429, false],
    [500, false],
    [503, false],
  ])('with status %i, everything is allowed: %s', async (status, isAllowed) => {
    const server = await serve(
      (_, response) => png(response),
      (_, response) => response.writeHead(status).end(),
    );
    const images = fetcher();
    for (const name of ['/a', '/b']) {
      expect(await images.fetch(server.url + name)).toEqual(isAllowed ? PNG : 'robots');
    }
    expect([server.robots, server.requests.length]).toEqual([1, isAllowed ? 2 : 0]);
  });

  it('is fetched once per origin, following redirects', async () => {
    const target = await serve((_, response) => png(response), 'User-agent: *\nDisallow: /private');
    const server = await serve(
      (request, response) => response.writeHead(302, { location: target.url + request.url }).end(),
      (_, response) => response.writeHead(301, { location: `${target.url}/robots.txt` }).end(),
    );
    const images = fetcher();
    expect(await images.fetch(`${server.url}/a`)).toEqual(PNG);
    expect(await images.fetch(`${server.url}/private`)).toBe('robots');
    expect([server.requests.length, target.requests.length]).toEqual([1, 1]);
    const strict = await serve((_, response) => png(response), 'User-agent: flamingo-ts\nDisallow: /');
    const leading = await serve((_, response) => response.writeHead(302, { location: `${strict.url}/a` }).end());
    expect(await images.fetch(`${leading.url}/a`)).toBe('robots');
    const loop = await serve(
      (_, response) => png(response),
      (_, response) => response.writeHead(302, { location: '/robots.txt' }).end(),
    );
    expect(await images.fetch(`${loop.url}/a`)).toBe('robots');
    expect(strict.requests.length + loop.requests.length).toBe(0);
  });

  it('makes requests wait for its crawl delay, up to a limit', async () => {
    const server = await serve((_, response) => png(response), 'User-agent: *\nCrawl-delay: 0.3');
    const images = fetcher();
    const started = performance.now();
    expect(await Promise.all(['/a', '/b', '/c'].map((name) => images.fetch(server.url + name)))).toEqual([
      PNG,
      PNG,
      PNG,
    ]);
    expect(performance.now() - started).toBeGreaterThan(580);
    const late = await serve((_, response) => png(response), 'User-agent: *\nCrawl-delay: 11');
    expect(await images.fetch(`${late.url}/a`)).toBe('robots');
  });

  it('is read up to a limit', async () => {
    const filler = `# ${'x'.repeat(1021)}\n`;
    const endless = (_: IncomingMessage, response: ServerResponse) => {
      response.write('User-agent: *\nDisallow: /no\n');
      const more = () => {
        while (!response.destroyed && response.write(filler));
      };
      response.on('drain', more);
      more();
    };
    const server = await serve((_, response) => png(response), endless);
    const images = fetcher();
    expect(await images.fetch(`${server.url}/no`)).toBe('robots');
    expect(await images.fetch(`${server.url}/yes`)).toEqual(PNG);
  });

  it('allows nothing if it has too many wildcards', async () => {
    const rules = `Disallow: /${'*a'.repeat(1000)}b\n`.repeat(200);
    const server = await serve((_, response) => png(response), `User-agent: *\n${rules}`);
    expect(await fetcher().fetch(`${server.url}/${'a'.repeat(2000)}`)).toBe('robots');
    expect(server.requests).toEqual([]);
  });

  it('takes little memory even if it is hostile', async () => {
    // If each name copied the rules, there would be 400 million of them.
    const names = Array.from({ length: 16_000 }, (_, i) => `User-agent: *${i % 2 ? '' : '/'}\n\n#\n`).join('');
    const server = await serve((_, response) => png(response), `${names}${'Allow:/\n'.repeat(25_000)}Disallow:/no`);
    const images = fetcher();
    expect(await images.fetch(`${server.url}/no`)).toBe('robots');
    expect(await images.fetch(`${server.url}/yes`)).toEqual(PNG);
  });
});

describe('opting out', () => {
  it.each([
    [{ 'x-robots-tag': 'noai' }, true],
    [{ 'x-robots-tag': 'NoImageAI' }, true],
    [{ 'x-robots-tag': 'nofollow, noimageindex' }, true],
    [{ 'x-robots-tag': ['nofollow', 'none'] }, true],
    [{ 'x-robots-tag': ['googlebot: nofollow', 'noindex'] }, true],
    [{ 'x-robots-tag': 'flamingo-ts: noindex' }, true],
    [{ 'x-robots-tag': 'unavailable_after: 25 Jun 2030 15:00:00 PST, noai' }, true],
    [{ 'tdm-reservation': '1' }, true],
    [{ 'x-robots-tag': 'googlebot: noindex' }, false],
    [{ 'x-robots-tag': ['googlebot: noindex', 'bingbot: noai'] }, false],
    [{ 'x-robots-tag': 'nofollow, max-image-preview: none, noarchive' }, false],
    [{ 'tdm-reservation': '0', 'tdm-policy': 'https://example.org/1' }, false],
  ])('%o opts out: %s', async (headers, isOut) => {
    const server = await serve((_, response) => png(response, headers as Record<string, string | string[]>));
    expect(await fetcher().fetch(`${server.url}/a.png`)).toEqual(isOut ? 'opted out' : PNG);
    expect(
      optedOut((name) => [(headers as Record<string, string | string[]>)[name] ?? []].flat().join(', ') || undefined),
    ).toBe(isOut);
  });
});

describe('politeness', () => {
  it('sends a host one request at a time, and hosts in parallel', async () => {
    let now = 0;
    let most = 0;
    const seen = new Set<string>();
    let open!: () => void;
    const bothArrived = new Promise<void>((resolve) => (open = resolve));
    const handler = async (request: IncomingMessage, response: ServerResponse) => {
      most = Math.max(most, ++now);
      seen.add(request.headers.host!.split(':')[0]!);
      if (seen.size === 2) open();
      if (request.url === '/together') await bothArrived;
      else await sleep(10);
      now--;
      png(response);
    };
    const server = await serve(handler);
    const second = await serve(handler);
    const images = fetcher({ isPublic: () => true });
    // Two ports of a host are one host.
    const urls = Array.from({ length: 12 }, (_, i) => `${(i % 2 ? server : second).url}/${i}`);
    expect(await Promise.all(urls.map((url) => images.fetch(url)))).toEqual(urls.map(() => PNG));
    expect(most).toBe(1);
    // Each response waits for the request to the other host.
    seen.clear();
    const together = ['127.0.0.1', 'localhost'].map((host) => images.fetch(`http://${host}:${server.port}/together`));
    expect(await Promise.all(together)).toEqual([PNG, PNG]);
  });

  it('retries once after a short wait, and skips hosts that ask for a long one', async () => {
    let tries = 0;
    const server = await serve((_, response) => {
      if (tries++ === 0) return void response.writeHead(503, { 'retry-after': '1' }).end();
      png(response);
    });
    const images = fetcher();
    expect(await images.fetch(`${server.url}/a`)).toEqual(PNG);
    const busy = await serve((_, response) => response.writeHead(429, { 'retry-after': '0' }).end());
    expect(await images.fetch(`${busy.url}/a`)).toBe('status 429');
    expect(busy.requests).toHaveLength(2);
    const date = new Date(Date.now() + 3_600_000).toUTCString();
    const closed = await serve((_, response) => response.writeHead(429, { 'retry-after': date }).end());
    expect(await images.fetch(`${closed.url}/a`)).toBe('status 429');
    expect(await images.fetch(`${closed.url}/b`)).toBe('status 429');
    expect(closed.requests).toHaveLength(1);
  });

  it('retries if a kept-alive connection was closed', async () => {
    const answer = `HTTP/1.1 200 OK\r\ncontent-type: image/png\r\ncontent-length: ${PNG.length}\r\n\r\n`;
    let connections = 0;
    const port = await listen(
      net.createServer((socket) => {
        connections++;
        let requests = 0;
        // Responds to one request of a connection and closes it at the next.
        socket.on('data', () =>
          requests++ === 0 ? socket.write(Buffer.concat([Buffer.from(answer), PNG])) : socket.destroy(),
        );
      }),
    );
    const images = fetcher();
    for (const name of ['a', 'b', 'c']) expect(await images.fetch(`http://127.0.0.1:${port}/${name}`)).toEqual(PNG);
    expect(connections).toBe(4);
  });

  it('aborts requests and closes connections on close()', async () => {
    const server = await serve(() => {});
    const done = await serve((_, response) => png(response));
    const images = fetcher();
    expect(await images.fetch(`${done.url}/a`)).toEqual(PNG);
    const waiting = ['/a', '/b', '/c'].map((name) => images.fetch(server.url + name));
    while (server.requests.length === 0) await sleep(5);
    expect(done.open).toBe(1);
    await images.close();
    await expect.poll(() => done.open + server.open, { timeout: 2000 }).toBe(0);
    expect(await Promise.all(waiting)).toEqual(['failed', 'failed', 'failed']);
    expect(await images.fetch(`${server.url}/d`)).toBe('failed');
    expect(server.requests).toHaveLength(1);
  });
});

describe.skipIf(spawnSync('openssl', ['version']).status !== 0)('https', () => {
  it('requires a trusted certificate, and follows redirects to http', async () => {
    const folder = mkdtempSync(path.join(tmpdir(), 'certificate-'));
    endings.push(async () => rmSync(folder, { recursive: true }));
    const [key, cert] = ['key.pem', 'cert.pem'].map((name) => path.join(folder, name)) as [string, string];
    const subject = ['-subj', '/CN=127.0.0.1', '-addext', 'subjectAltName=IP:127.0.0.1'];
    const request = [
      'req',
      '-x509',
      '-newkey',
      'ec',
      '-pkeyopt',
      'ec_paramgen_curve:prime256v1',
      '-nodes',
      '-days',
      '1',
    ];
    execFileSync('openssl', [...request, ...subject, '-keyout', key, '-out', cert], { stdio: 'ignore' });
    const plain = await serve((_, response) => png(response));
    const server = https.createServer({ key: readFileSync(key), cert: readFileSync(cert) }, (request, response) => {
      if (request.url === '/away') response.writeHead(302, { location: `${plain.url}/a.png` }).end();
      else if (request.url === '/robots.txt') response.writeHead(404).end();
      else png(response);
    });
    const url = `https://127.0.0.1:${await listen(server)}`;
    expect(await fetcher().fetch(`${url}/a.png`)).toBe('failed');
    // The only way to make a running Node trust it.
    process.env['NODE_TLS_REJECT_UNAUTHORIZED'] = '0';
    endings.push(async () => delete process.env['NODE_TLS_REJECT_UNAUTHORIZED']);
    const images = fetcher();
    expect(await images.fetch(`${url}/a.png`)).toEqual(PNG);
    expect(await images.fetch(`${url}/away`)).toEqual(PNG);
  });
});
