import dns from 'node:dns';
import { setMaxListeners } from 'node:events';
import http, { type IncomingMessage } from 'node:http';
import https from 'node:https';
import net from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import ipaddr from 'ipaddr.js';
import robotsParser from 'robots-parser';
import { AGENT, optedOut } from '../pages/opt-out';
import { IMAGE_LIMITS, sniffFormat } from './image-info';

const LIMITS = {
  addressLength: 2048,
  headerBytes: 16 * 1024,
  redirects: 5,
  /** What RFC 9309, 2.5, asks to be read at least. */
  robotsBytes: 500 * 1024,
  /** Of rules with `*`. An address of full length takes a third of a second to match with that many, or seconds with all. */
  wildcardBytes: 32 * 1024,
  robotsKeptMs: 24 * 60 * 60 * 1000,
  /** A host that could not be reached is asked again after this. */
  unreachableKeptMs: 10 * 60 * 1000,
  /** A host that wants more time between requests (Crawl-delay, Retry-After) is left alone. */
  pauseMs: 10_000,
  /** Hosts remembered at a time; with the largest robots.txt each they fill 250 MiB. */
  hosts: 512,
  idleConnectionMs: 5000,
} as const;

/** Other ports are mostly mail, databases and consoles, which a page must not be able to make us talk to. */
const PORTS = ['', '80', '443', '8080', '8443'];

/** All that is handed out on the IPv6 internet: what lies outside embeds IPv4 addresses or stays in a network. */
const GLOBAL_IPV6: [ipaddr.IPv6, number] = [ipaddr.IPv6.parse('2000::'), 3];

/** Whether an address is one of the internet: not of a private network, this machine, a tunnel, tests or a reserve. */
export function isPublicAddress(address: string): boolean {
  if (!ipaddr.isValid(address)) return false;
  const parsed = ipaddr.parse(address);
  return parsed.range() === 'unicast' && (parsed instanceof ipaddr.IPv4 || parsed.match(GLOBAL_IPV6));
}

/** What a request is for. */
interface Errand {
  readonly accept: string;
  readonly obeysRobots: boolean;
  /** The body of an answer with status 200, or why it is not taken. */
  read(response: IncomingMessage): Promise<Uint8Array | string>;
}

/** No answer yet: to be asked for again, but not before a time. */
class Later {
  constructor(
    readonly reason: string,
    readonly until: number,
  ) {}
}

/** Of robots.txt only the lines that concern us, or why there is none. */
interface Robots {
  readonly rules: Promise<{ readonly text: string } | { readonly reason: string }>;
  until: number;
}

/**
 * Fetches images as a polite crawler: robots.txt (RFC 9309) and opt-out headers are obeyed, a host gets one request
 * at a time, and nothing is sent but the address and our name. Pages are hostile input, so only the internet is
 * reached: every address is checked when it is connected to, after each redirect too. Proxies are not used, since a
 * proxy would look up names by itself.
 */
export class ImageFetcher {
  private readonly isPublic: (address: string) => boolean;
  private readonly anyPort: boolean;
  private readonly timeoutMs: number;
  private readonly ending = new AbortController();
  private readonly agents: { readonly 'http:': http.Agent; readonly 'https:': https.Agent };
  /** The last of those who wait for a host. */
  private readonly turns = new Map<string, Promise<void>>();
  private readonly robots = new Map<string, Robots>();
  /** Hosts that asked to be left alone. */
  private readonly rests = new Map<string, Later>();

  /**
   * @param options.isPublic for tests: which addresses may be connected to, on any port then. Default: the internet's
   * @param options.timeoutMs for an image with its redirects, not counting waits for the host's turn. Default 20,000
   */
  constructor(options: { isPublic?(address: string): boolean; timeoutMs?: number } = {}) {
    this.isPublic = options.isPublic ?? isPublicAddress;
    this.anyPort = options.isPublic !== undefined;
    this.timeoutMs = options.timeoutMs ?? 20_000;
    setMaxListeners(0, this.ending.signal);
    const settings = { keepAlive: true, timeout: LIMITS.idleConnectionMs };
    this.agents = { 'http:': new http.Agent(settings), 'https:': new https.Agent(settings) };
  }

  /**
   * An image, or why there is none: `address`, `private address`, `robots`, `opted out`, `not an image`, `encoded`,
   * `too large`, `too slow`, `too many redirects`, `failed`, `status 404` and the like. Never throws for what the
   * network does.
   */
  async fetch(url: string): Promise<Uint8Array | string> {
    const start = URL.canParse(url) ? new URL(url) : undefined;
    return start ? this.follow(start, { accept: 'image/*', obeysRobots: true, read: readImage }) : 'address';
  }

  /** Ends what is under way and the kept connections; images asked for afterwards are `failed`. */
  async close(): Promise<void> {
    this.ending.abort();
    await Promise.all(this.turns.values());
    for (const agent of Object.values(this.agents)) agent.destroy();
  }

  private async follow(start: URL, errand: Errand): Promise<Uint8Array | string> {
    const time = { left: this.timeoutMs };
    let url = start;
    for (let redirects = 0; redirects <= LIMITS.redirects; redirects++) {
      const refusal = this.refusal(url);
      if (refusal) return refusal;
      const delay = errand.obeysRobots ? await this.crawlDelay(url) : 0;
      if (typeof delay === 'string') return delay;
      const answer = await this.inTurn(url.hostname, delay, () => this.exchange(url, errand, time));
      if (!(answer instanceof URL)) return answer;
      url = answer;
    }
    return 'too many redirects';
  }

  /** Why an address is not asked, as far as it tells by itself; names are looked up later. Drops its fragment. */
  private refusal(url: URL): string | undefined {
    url.hash = '';
    // `example.org.` is the same host as `example.org`.
    url.hostname = url.hostname.replace(/\.$/, '');
    if (!Object.hasOwn(this.agents, url.protocol) || url.username || url.password) return 'address';
    if (url.href.length > LIMITS.addressLength) return 'address';
    // URL has made plain numbers, octal and hexadecimal ones into four decimals.
    const host = url.hostname.replace(/^\[|\]$/g, '');
    if (net.isIP(host) && !this.isPublic(host)) return 'private address';
    return this.anyPort || PORTS.includes(url.port) ? undefined : 'address';
  }

  /** Milliseconds to leave the host alone after this request, or why it is not to be made. */
  private async crawlDelay(url: URL): Promise<number | string> {
    let known = this.robots.get(url.origin);
    if (!known || known.until < Date.now()) {
      known = { rules: this.fetchRobots(url.origin), until: Date.now() + LIMITS.robotsKeptMs };
    }
    remember(this.robots, url.origin, known);
    const rules = await known.rules;
    if ('reason' in rules) {
      known.until = Math.min(known.until, Date.now() + LIMITS.unreachableKeptMs);
      return rules.reason;
    }
    // Made anew each time: the rules of a large file take many times its size.
    const robots = robotsParser(`${url.origin}/robots.txt`, rules.text);
    const delay = Math.max(0, robots.getCrawlDelay(AGENT) ?? 0) * 1000;
    return robots.isAllowed(plainLetters(url.href), AGENT) && delay <= LIMITS.pauseMs ? delay : 'robots';
  }

  /** RFC 9309, 2.3.1: no file allows everything, one that cannot be had allows nothing. */
  private async fetchRobots(origin: string): Promise<{ text: string } | { reason: string }> {
    const errand = { accept: 'text/plain', obeysRobots: false, read: readStart };
    const answer = await this.follow(new URL('/robots.txt', origin), errand);
    if (typeof answer !== 'string') return { text: ownRules(new TextDecoder().decode(answer)) };
    // "Too many requests" says nothing about the file.
    if (/^status 4(?!29)/.test(answer)) return { text: '' };
    return { reason: /^(private address|too slow|failed)$/.test(answer) ? answer : 'robots' };
  }

  /** Does the work when all earlier work for the host is done and its delay over. */
  private inTurn<T>(host: string, delayMs: number, work: () => Promise<T>): Promise<T> {
    const result = (this.turns.get(host) ?? Promise.resolve()).then(work);
    const turn = result.catch(() => {}).then(() => this.pause(delayMs));
    this.turns.set(host, turn);
    void turn.then(() => this.turns.get(host) === turn && this.turns.delete(host));
    return result;
  }

  private async pause(ms: number): Promise<void> {
    if (ms > 0) await sleep(ms, undefined, { signal: this.ending.signal }).catch(() => {});
  }

  /** One request, and one more where the server asks for a short wait; a URL is where it sends us. */
  private async exchange(url: URL, errand: Errand, time: { left: number }): Promise<Uint8Array | string | URL> {
    const rest = this.rests.get(url.hostname);
    if (rest && rest.until > Date.now()) return rest.reason;
    for (let tries = 1; ; tries++) {
      const answer = await this.request(url, errand, time);
      if (!(answer instanceof Later)) return answer;
      const wait = answer.until - Date.now();
      if (tries > 1 || wait > LIMITS.pauseMs) {
        remember(this.rests, url.hostname, answer);
        return answer.reason;
      }
      await this.pause(wait);
    }
  }

  /** Never rejects. */
  private async request(url: URL, errand: Errand, time: { left: number }): Promise<Uint8Array | string | URL | Later> {
    const { request: send } = url.protocol === 'https:' ? https : http;
    const started = performance.now();
    let isSlow = false;
    const request = send(url, {
      agent: this.agents[url.protocol as 'http:' | 'https:'],
      headers: {
        'user-agent': `${AGENT} (dataset builder; respects robots.txt)`,
        accept: errand.accept,
        // Images are compressed already; what unfolds may be a bomb.
        'accept-encoding': 'identity',
      },
      lookup: this.lookup,
      maxHeaderSize: LIMITS.headerBytes,
      signal: this.ending.signal,
    });
    const closed = new Promise((resolve) => request.on('close', resolve));
    const timer = setTimeout(() => {
      isSlow = true;
      request.destroy();
    }, time.left);
    try {
      const response = await new Promise<IncomingMessage>((resolve, reject) => {
        request.on('response', resolve).on('error', reject);
        request.on('close', () => reject(new Error(`${url.href}: closed without an answer.`)));
        request.end();
      });
      return await answerOf(response, url, errand);
    } catch (error) {
      if (isSlow) return 'too slow';
      if (error instanceof PrivateAddressError) return 'private address';
      // A kept connection may have been closed by the server at the moment it was used again.
      return request.reusedSocket ? new Later('failed', Date.now()) : 'failed';
    } finally {
      clearTimeout(timer);
      // Does nothing where the body has been read: the connection is kept then.
      request.destroy();
      // Only now can the next request for the host have this connection; Node 24 gives it back after the body's end.
      await closed;
      time.left = Math.max(1, time.left - (performance.now() - started));
    }
  }

  /** Gives the connection the very addresses that were checked: asked twice, a name may give others. */
  private readonly lookup: net.LookupFunction = (hostname, options, callback) => {
    dns.lookup(hostname, { ...options, all: true }, (error, found) => {
      // One private address among public ones is a trick or a mistake.
      const refused =
        error ?? (found.every(({ address }) => this.isPublic(address)) ? null : new PrivateAddressError());
      if (refused || options.all) callback(refused, found);
      else callback(null, found[0]!.address, found[0]!.family);
    });
  };
}

class PrivateAddressError extends Error {}

async function answerOf(
  response: IncomingMessage,
  url: URL,
  errand: Errand,
): Promise<Uint8Array | string | URL | Later> {
  const { statusCode: status = 0, headers } = response;
  const reason = `status ${status}`;
  if ([301, 302, 303, 307, 308].includes(status) && headers.location !== undefined) {
    return URL.canParse(headers.location, url.href) ? new URL(headers.location, url.href) : 'address';
  }
  if ((status === 429 || status === 503) && headers['retry-after'] !== undefined) {
    const after = headers['retry-after'];
    const until = /^\d+$/.test(after) ? Date.now() + Number(after) * 1000 : Date.parse(after);
    return Number.isNaN(until) ? reason : new Later(reason, until);
  }
  if (status !== 200) return reason;
  const encoding = headers['content-encoding'] ?? 'identity';
  return /^(identity)?$/i.test(encoding) ? errand.read(response) : 'encoded';
}

async function readImage(response: IncomingMessage): Promise<Uint8Array | string> {
  const { headers } = response;
  if (optedOut((name) => headers[name]?.toString())) return 'opted out';
  const type = headers['content-type'] ?? '';
  if (!/^(image\/(?!svg)|(application|binary)\/octet-stream|$)/i.test(type)) return 'not an image';
  if (Number(headers['content-length'] ?? 0) > IMAGE_LIMITS.bytes) return 'too large';
  const chunks: Uint8Array[] = [];
  let length = 0;
  let isKnown = false;
  for await (const chunk of response as AsyncIterable<Buffer>) {
    chunks.push(chunk);
    length += chunk.length;
    if (length > IMAGE_LIMITS.bytes) return 'too large';
    // Formats are told by 12 bytes.
    if (!isKnown && length >= 12) {
      isKnown = sniffFormat(Buffer.concat(chunks)) !== undefined;
      if (!isKnown) return 'not an image';
    }
  }
  return isKnown ? Buffer.concat(chunks) : 'not an image';
}

/** As much of robots.txt as is looked at; a line that is cut in two is left out. */
async function readStart(response: IncomingMessage): Promise<Uint8Array> {
  const chunks: Buffer[] = [];
  let length = 0;
  for await (const chunk of response as AsyncIterable<Buffer>) {
    chunks.push(chunk);
    length += chunk.length;
    if (length > LIMITS.robotsBytes) {
      const start = Buffer.concat(chunks).subarray(0, LIMITS.robotsBytes);
      return start.subarray(0, start.lastIndexOf('\n') + 1);
    }
  }
  return Buffer.concat(chunks);
}

/**
 * The groups of robots.txt for us or for all agents, each agent once. The parser copies a group's rules to every name
 * above it, so that thousands of names over thousands of rules, half a megabyte, would fill gigabytes.
 */
function ownRules(text: string): string {
  const lines: string[] = [];
  const named = new Set<string>();
  let isNaming = false;
  let wildcardBytes = 0;
  for (const line of text.split(/[\r\n]+/)) {
    const [, field, value] = /^\s*(user-agent|allow|disallow|crawl-delay)\s*:([^#]*)/i.exec(line) ?? [];
    if (field === undefined || value === undefined) continue;
    if (field.toLowerCase() !== 'user-agent') {
      isNaming = false;
      if (named.size === 0) continue;
      lines.push(`${field}:${plainLetters(value)}`);
      if (value.includes('*')) wildcardBytes += value.length;
      if (wildcardBytes > LIMITS.wildcardBytes) return 'user-agent: *\ndisallow: /';
      continue;
    }
    if (!isNaming) named.clear();
    isNaming = true;
    const agent = value.split('/')[0]!.trim().toLowerCase();
    if ((agent !== AGENT && agent !== '*') || named.has(agent)) continue;
    named.add(agent);
    lines.push(`user-agent: ${agent}`);
  }
  return lines.join('\n');
}

/** `%61` is the letter a (RFC 9309, 2.2.2): a rule for the one holds for the other. */
function plainLetters(text: string): string {
  return text.replace(/%(?:2[de]|3\d|[46][1-9a-f]|[57][\da]|5f|7e)/gi, (code) => decodeURIComponent(code));
}

/** Sets the entry as the latest, and forgets the oldest where there are too many. */
function remember<T>(entries: Map<string, T>, key: string, value: T): void {
  entries.delete(key);
  entries.set(key, value);
  if (entries.size > LIMITS.hosts) entries.delete(entries.keys().next().value!);
}
