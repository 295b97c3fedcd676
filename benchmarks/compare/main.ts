/**
 * Times our workloads against those of a peer, PyTorch or tfjs-node, on this machine:
 *
 *     npm run compare -- [WORKLOAD...] [--peer pytorch] [--peer tfjs-node] [--python PYTHON] [--ref DIR] [--out FILE.json]
 *
 * Each run is a process of its own. Ours and the peer's take turns, because a machine is not equally fast all the time:
 * what counts is the ratio within pairs. Leave the machine alone meanwhile.
 */
import { appendFileSync, readFileSync, writeFileSync } from 'node:fs';
import { availableParallelism, cpus, loadavg } from 'node:os';
import { resolve } from 'node:path';
import { parseArgs } from 'node:util';
import { processors, usedByOthers } from './machine';
import { compare, formatLine, formatTable, orders, toldOfOthers, type Comparison, type Pair, type Run } from './pairs';
import { ours, PEERS, PRECISIONS, type Precision, type Settings } from './sides';

const usage = `usage: npm run compare -- [WORKLOAD...]
  --peer NAME          pytorch (if none is given) or tfjs-node; may be repeated, or with commas between
  --precision P,...    fp32, bf16; both if none is given
  --pairs N            runs of each side, 5 if not given
  --seconds N          seconds that each run is timed for, 8 if not given
  --threads N          threads of each side, all cores if not given
  --specs FILE         the workloads, apps/trainer/configs/bench.json if not given
  --python PYTHON      a Python with PyTorch, timm and einops, or FLAMINGO_PEER_PYTHON; python3 if not given
  --ref DIR            the folder that holds a checkout of open_flamingo/, or FLAMINGO_PEER_REF
  --out FILE.json      writes what every run printed, one JSON line each`;

const HELP = 'All options: npm run compare -- --help';

function options() {
  const string = { type: 'string' } as const;
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: {
      peer: { ...string, multiple: true, default: ['pytorch'] },
      precision: { ...string, default: 'fp32,bf16' },
      pairs: { ...string, default: '5' },
      seconds: { ...string, default: '8' },
      threads: { ...string, default: String(availableParallelism()) },
      specs: { ...string, default: resolve(import.meta.dirname, '../../apps/trainer/configs/bench.json') },
      python: { ...string, default: process.env['FLAMINGO_PEER_PYTHON'] ?? 'python3' },
      ref: { ...string, default: process.env['FLAMINGO_PEER_REF'] },
      out: string,
      help: { type: 'boolean', short: 'h', default: false },
    },
  });
  if (values.help) return undefined;
  const { about: _, ...specs } = JSON.parse(readFileSync(values.specs, 'utf8')) as Record<string, unknown>;
  const settings: Settings = {
    specs: values.specs,
    seconds: whole('--seconds', values.seconds),
    threads: whole('--threads', values.threads),
    python: values.python,
    ref: values.ref,
  };
  return {
    settings,
    workloads: known('workloads', positionals, Object.keys(specs)),
    peers: known('--peer', list(values.peer.join()), Object.keys(PEERS)),
    precisions: known('--precision', list(values.precision), Object.keys(PRECISIONS)) as Precision[],
    pairs: whole('--pairs', values.pairs),
    out: values.out,
  };
}

const list = (names: string) => names.split(',').map((name) => name.trim());

/** Those that were asked for, or all; each must be one that there is. */
function known(what: string, asked: readonly string[], all: readonly string[]): readonly string[] {
  const unknown = asked.find((name) => !all.includes(name));
  if (unknown !== undefined) throw new Error(`${what}: there are ${all.join(', ')}, not ${unknown}. ${HELP}`);
  return asked.length > 0 ? asked : all;
}

function whole(what: string, value: string): number {
  if (!/^[1-9]\d*$/.test(value)) throw new Error(`${what} must be a whole number from 1, got ${value}. ${HELP}`);
  return Number(value);
}

type Asked = NonNullable<ReturnType<typeof options>>;

/** Runs the pairs of one workload; throws what the side that failed has said. */
function measure(workload: string, precision: Precision, peer: string, { settings, pairs, out }: Asked): Pair[] {
  const run = (who: 'ours' | 'peer', pair: number): Run => {
    const side = who === 'ours' ? ours : PEERS[peer]!;
    try {
      const from = processors();
      const printed = side.run(workload, precision, settings);
      const to = processors();
      const result = from && to ? { ...printed, used_by_others: Number(usedByOthers(from, to).toFixed(3)) } : printed;
      // At once, so that a comparison that is stopped leaves what it has measured.
      if (out !== undefined) appendFileSync(out, `${JSON.stringify({ side: who, against: peer, pair, ...result })}\n`);
      return result;
    } catch (error) {
      throw new Error(`${who === 'ours' ? 'Ours' : peer} failed: ${(error as Error).message}`, { cause: error });
    }
  };
  return orders(pairs).map((order, i) => {
    const pair = Object.fromEntries(order.map((who) => [who, run(who, i)])) as unknown as Pair;
    const ratio = (pair.ours.value / pair.peer.value).toFixed(2);
    process.stderr.write(`  ${workload} ${precision} against ${peer}, pair ${i + 1} of ${pairs}: ${ratio}\n`);
    return pair;
  });
}

/** Compares all that was asked for; false if any of it failed. */
function main(): boolean {
  const asked = options();
  if (!asked) {
    console.log(usage);
    return true;
  }
  const { settings, workloads, peers, precisions, pairs, out } = asked;
  const machine = `${cpus()[0]?.model.trim()}, ${settings.threads} threads, Node ${process.version}`;
  const load = loadavg()[0]!.toFixed(1);
  console.log(`Pairs: ${pairs}, each side timed for ${settings.seconds} s, on ${machine}; load before: ${load}`);
  if (out !== undefined) writeFileSync(out, '');

  const tables = new Map<string, Comparison[]>();
  const failed: string[] = [];
  const reasons = new Set<string>();
  for (const peer of peers) {
    for (const precision of precisions) {
      const able = PEERS[peer]!.precisions;
      if (!able.includes(precision)) {
        console.log(`${peer} computes in ${able.join(', ')} only: ${precision} is left out.`);
        continue;
      }
      for (const workload of workloads) {
        try {
          const measured = measure(workload, precision, peer, asked);
          const comparison = compare(measured);
          const title = measured[0]!.peer.peer ?? peer;
          tables.set(title, [...(tables.get(title) ?? []), comparison]);
          console.log(formatLine(comparison, peer));
        } catch (error) {
          const { message } = error as Error;
          const what = `${workload} ${precision} against ${peer}`;
          console.log(`${what}: not compared. ${reasons.has(message) ? 'The reason is one that was told.' : message}`);
          failed.push(what);
          reasons.add(message);
        }
      }
    }
  }
  for (const [title, rows] of tables) {
    console.log(`\nAgainst ${title}, on ${machine}:\n\n${formatTable(rows)}`);
    const others = toldOfOthers(rows);
    if (others) console.log(`\n${others}: measure again while the machine is left alone.`);
  }
  if (failed.length > 0) console.log(`\nNot compared, for the reasons above: ${failed.join('; ')}.`);
  return failed.length === 0;
}

try {
  process.exitCode = main() ? 0 : 1;
} catch (error) {
  console.error(`compare: ${(error as Error).message}`);
  process.exitCode = 1;
}
