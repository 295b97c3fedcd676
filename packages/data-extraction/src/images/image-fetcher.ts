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
  urlLength: 2048,
  headerBytes: 16 * 1024,
  redirects: 5,
  /** The minimum that RFC 9309, 2.5, requires. */
  robotsBytes: 500 * 1024,
  /** Limit for rules with `*`. Matching a URL of maximum length against this much takes a third of a second. */
  wildcardBytes: 32 * 1024,
  robotsKeptMs: 24 * 60 * 60 * 1000,
  /** An unreachable host is retried after this. */
  unreachableKeptMs: 10 * 60 * 1000,
  /** A host that requires a longer pause between requests (Crawl-delay, Retry-After) is skipped. */
  pauseMs: 10_000,
  /** Number of hosts in memory. With the largest robots.txt each, they take 250 MiB. */
  hosts: 512,
  idleConnectionMs: 5000,
} as const;

/** Other ports mostly serve mail, databases and consoles. A page must not make us connect to them. */
const PORTS = ['', '80', '443', '8080', '8443'];

/** Public IPv6 addresses. Others embed IPv4 addresses or are local. */
const GLOBAL_IPV6: [ipaddr.IPv6, number] = [ipaddr.IPv6.parse('2000::'), 3];

/** Whether an IP address is public: not reserved or of a private network, this machine, a tunnel or a test range. */
export function isPublicAddress(address: string): boolean {
  if (!ipaddr.isValid(address)) return false;
  const parsed = ipaddr.parse(address);
  return parsed.range() === 'unicast' && (parsed instanceof ipaddr.IPv4 || parsed.match(GLOBAL_IPV6));
}

/** What is fetched: an image or a robots.txt. */
interface Resource {
  readonly accept: string;
  readonly obeysRobots: boolean;
  /** Reads the body of a response with status 200. Returns a reason if it is rejected. */
  read(response: IncomingMessage): Promise<Uint8Array | string>;
}

/** A request to retry, but not before a given time. */
class RetryLater {
  constructor(
    readonly reason: string,
    readonly until: number,
  ) {}
}

/** The lines of robots.txt that apply to us, or why there are none. */
interface Robots {
  readonly rules: Promise<{ readonly text: string } | { readonly reason: string }>;
  until: number;
}

/**
 * Fetches images as a polite crawler: obeys robots.txt (RFC 9309) and opt-out headers, sends each host one request at a
 * time, and sends nothing but the URL and our name. Pages are hostile input, so it connects to public addresses only,
 * and checks each address on connection, also after redirects. It uses no proxy, because a proxy resolves names itself.
 */
export class ImageFetcher {
  private readonly isPublic: (address: string) => boolean;
  private readonly anyPort: boolean;
  private readonly timeoutMs: number;
  private readonly closing = new AbortController();
  private readonly agents: { readonly 'http:': http.Agent; readonly 'https:': https.Agent };
  /** The last request in the queue of each host. */
  private readonly queues = new Map<string, Promise<void>>();
  private readonly robots = new Map<string, Robots>();
  /** Hosts that asked for a long pause. */
  private readonly pausedHosts = new Map<string, RetryLater>();

  /**
   * @param options.isPublic for tests: which IP addresses to allow, then on any port. Defaults to public addresses
   * @param options.timeoutMs for an image and its redirects, not counting the wait for other requests to the host.
   *                          Defaults to 20,000
   */
  constructor(options: { isPublic?(address: string): boolean; timeoutMs?: number } = {}) {
    this.isPublic = options.isPublic ?? isPublicAddress;
    this.anyPort = options.isPublic !== undefined;
    this.timeoutMs = options.timeoutMs ?? 20_000;
    setMaxListeners(0, this.closing.signal);
    const agentOptions = { keepAlive: true, timeout: LIMITS.idleConnectionMs };
    this.agents = { 'http:': new http.Agent(agentOptions), 'https:': new https.Agent(agentOptions) };
  }

  /**
   * Returns an image, or why there is none: `invalid URL`, `private address`, `robots`, `opted out`, `not an image`,
   * `encoded`, `too large`, `too slow`, `too many redirects`, `failed`, `status 404` and the like. Never
   * throws for network errors.
   */
  async fetch(url: string): Promise<Uint8Array | string> {
    const start = URL.canParse(url) ? new URL(url) : undefined;
    return start ? this.follow(start, { accept: 'image/*', obeysRobots: true, read: readImage }) : 'invalid URL';
  }

  /** Aborts requests and closes connections. Later requests return `failed`. */
  async close(): Promise<void> {
    this.closing.abort();
    await Promise.all(this.queues.values());
    for (const agent of Object.values(this.agents)) agent.destroy();
  }

  private async follow(start: URL, resource: Resource): Promise<Uint8Array | string> {
    const time = { left: this.timeoutMs };
    let url = start;
    for (let redirects = 0; redirects <= LIMITS.redirects; redirects++) {
      const refusal = this.refusal(url);
      if (refusal) return refusal;
      const delay = resource.obeysRobots ? await this.crawlDelay(url) : 0;
      if (typeof delay === 'string') return delay;
      const answer = await this.inTurn(url.hostname, delay, () => this.exchange(url, resource, time));
      if (!(answer instanceof URL)) return answer;
      url = answer;
    }
    return 'too many redirects';
  }

  /** Returns why a URL is rejected before its name is resolved. Removes its fragment. */
  private refusal(url: URL): string | undefined {
    url.hash = '';
    // `example.org.` is the same host as `example.org`.
    url.hostname = url.hostname.replace(/\.$/, '');
    if (!Object.hasOwn(this.agents, url.protocol) || url.username || url.password) return 'invalid URL';
    if (url.href.length > LIMITS.urlLength) return 'invalid URL';
    // URL has converted plain, octal and hexadecimal numbers to dotted decimals.
    const host = url.hostname.replace(/^\[|\]$/g, '');
    if (net.isIP(host) && !this.isPublic(host)) return 'private address';
    return this.anyPort || PORTS.includes(url.port) ? undefined : 'invalid URL';
  }

  /** Returns the pause after this request in milliseconds, or why the request is not allowed. */
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
    // Parse each time: parsed rules take many times the memory of the file.
    const robots = robotsParser(`${url.origin}/robots.txt`, rules.text);
    const delay = Math.max(0, robots.getCrawlDelay(AGENT) ?? 0) * 1000;
    return robots.isAllowed(plainLetters(url.href), AGENT) && delay <= LIMITS.pauseMs ? delay : 'robots';
  }

  /** RFC 9309, 2.3.1: a missing file allows everything, an unreachable one nothing. */
  private async fetchRobots(origin: string): Promise<{ text: string } | { reason: string }> {
    const resource = { accept: 'text/plain', obeysRobots: false, read: readStart };
    const answer = await this.follow(new URL('/robots.txt', origin), resource);
    if (typeof answer !== 'string') return { text: ownRules(new TextDecoder().decode(answer)) };
    // 429 ("Too many requests") does not mean that the file is missing.
    if (/^status 4(?!29)/.test(answer)) return { text: '' };
    return { reason: /^(private address|too slow|failed)$/.test(answer) ? answer : 'robots' };
  }

  /** Runs the work after all earlier work for the host, then pauses the host. */
  private inTurn<T>(host: string, delayMs: number, work: () => Promise<T>): Promise<T> {
    const result = (this.queues.get(host) ?? Promise.resolve()).then(work);
    const turn = result.catch(() => {}).then(() => this.pause(delayMs));
    this.queues.set(host, turn);
    void turn.then(() => this.queues.get(host) === turn && this.queues.delete(host));
    return result;
  }

  private async pause(ms: number): Promise<void> {
    if (ms > 0) await sleep(ms, undefined, { signal: this.closing.signal }).catch(() => {});
  }

  /** Sends a request, and retries once if the server asks for a short wait. Returns a URL for a redirect. */
  private async exchange(url: URL, resource: Resource, time: { left: number }): Promise<Uint8Array | string | URL> {
    const pause = this.pausedHosts.get(url.hostname);
    if (pause && pause.until > Date.now()) return pause.reason;
    for (let tries = 1; ; tries++) {
      const answer = await this.request(url, resource, time);
      if (!(answer instanceof RetryLater)) return answer;
      const wait = answer.until - Date.now();
      if (tries > 1 || wait > LIMITS.pauseMs) {
        remember(this.pausedHosts, url.hostname, answer);
        return answer.reason;
      }
      await this.pause(wait);
    }
  }

  /** Never rejects. */
  private async request(
    url: URL,
    resource: Resource,
    time: { left: number },
  ): Promise<Uint8Array | string | URL | RetryLater> {
    const { request: send } = url.protocol === 'https:' ? https : http;
    const started = performance.now();
    let isSlow = false;
    const request = send(url, {
      agent: this.agents[url.protocol as 'http:' | 'https:'],
      headers: {
        'user-agent': `${AGENT} (dataset builder; respects robots.txt)`,
        accept: resource.accept,
        // Images are compressed already, and a compressed response may be a decompression bomb.
        'accept-encoding': 'identity',
      },
      lookup: this.lookup,
      maxHeaderSize: LIMITS.headerBytes,
      signal: this.closing.signal,
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
      return await answerOf(response, url, resource);
    } catch (error) {
      if (isSlow) return 'too slow';
      if (error instanceof PrivateAddressError) return 'private address';
      // The server may have closed the kept-alive connection just before it was reused.
      return request.reusedSocket ? new RetryLater('failed', Date.now()) : 'failed';
    } finally {
      clearTimeout(timer);
      // No effect if the body has been read: the connection stays alive.
      request.destroy();
      // Wait, so that the next request to the host can reuse the connection; Node 24 releases it after the end of the body.
      await closed;
      time.left = Math.max(1, time.left - (performance.now() - started));
    }
  }

  /** Connects to the addresses that were checked: a second lookup might return others. */
  private readonly lookup: net.LookupFunction = (hostname, options, callback) => {
    dns.lookup(hostname, { ...options, all: true }, (error, addresses) => {
      // A private address among public ones is a trick or a mistake.
      const refused =
        error ?? (addresses.every(({ address }) => this.isPublic(address)) ? null : new PrivateAddressError());
      if (refused || options.all) callback(refused, addresses);
      else callback(null, addresses[0]!.address, addresses[0]!.family);
    });
  };
}

class PrivateAddressError extends Error {}

async function answerOf(
  response: IncomingMessage,
  url: URL,
  resource: Resource,
): Promise<Uint8Array | string | URL | RetryLater> {
  const { statusCode: status = 0, headers } = response;
  const reason = `status ${status}`;
  if ([301, 302, 303, 307, 308].includes(status) && headers.location !== undefined) {
    return URL.canParse(headers.location, url.href) ? new URL(headers.location, url.href) : 'invalid URL';
  }
  if ((status === 429 || status === 503) && headers['retry-after'] !== undefined) {
    const after = headers['retry-after'];
    const until = /^\d+$/.test(after) ? Date.now() + Number(after) * 1000 : Date.parse(after);
    return Number.isNaN(until) ? reason : new RetryLater(reason, until);
  }
  if (status !== 200) return reason;
  const encoding = headers['content-encoding'] ?? 'identity';
  return /^(identity)?$/i.test(encoding) ? resource.read(response) : 'encoded';
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
    // 12 bytes identify the format.
    if (!isKnown && length >= 12) {
      isKnown = sniffFormat(Buffer.concat(chunks)) !== undefined;
      if (!isKnown) return 'not an image';
    }
  }
  return isKnown ? Buffer.concat(chunks) : 'not an image';
}

/** Reads the start of robots.txt. Drops an incomplete last line. */
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
 * Returns the groups of robots.txt for us or for all agents, naming each agent once. The parser copies the rules of a
 * group for each of its names, so a file of half a megabyte with thousands of names and rules would take gigabytes.
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

/** Decodes unreserved characters (RFC 9309, 2.2.2), so that a rule for `%61` matches `a`. */
function plainLetters(text: string): string {
  return text.replace(/%(?:2[de]|3\d|[46][1-9a-f]|[57][\da]|5f|7e)/gi, (code) => decodeURIComponent(code));
}

/** Sets an entry as the most recent one, and evicts the oldest if there are too many. */
function remember<T>(entries: Map<string, T>, key: string, value: T): void {
  entries.delete(key);
  entries.set(key, value);
  if (entries.size > LIMITS.hosts) entries.delete(entries.keys().next().value!);
}
