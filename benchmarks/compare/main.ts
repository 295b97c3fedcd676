/**
 * Compares the speed and memory of our workloads with those of a peer, PyTorch (eager or compiled) or tfjs-node, on this
 * machine:
 *
 *     npm run compare -- [WORKLOAD...] [--peer NAME,...] [--python PYTHON] [--ref DIR] [--out FILE.json]
 *
 * Each run is a separate process. The two sides take turns and are compared within pairs, because the speed of a machine
 * varies over time. Do not use the machine for anything else meanwhile.
 */
import { appendFileSync, readFileSync, writeFileSync } from 'node:fs';
import { availableParallelism, cpus, loadavg } from 'node:os';
import { resolve } from 'node:path';
import { parseArgs } from 'node:util';
import { processors, usedByOthers } from './machine';
import { compare, formatLine, describeLoad, formatTable, orders, type Comparison, type Pair, type Run } from './pairs';
import { ours, PEERS, PRECISIONS, type Precision, type RunConfig } from './sides';

const usage = `usage: npm run compare -- [WORKLOAD...]
  --peer NAME,...      pytorch, pytorch-compiled or tfjs-node; repeatable (default: pytorch)
  --precision P,...    fp32 or bf16 (default: both)
  --pairs N            runs of each side (default: 5)
  --seconds N          seconds to time each run (default: 8)
  --threads N          threads of each side (default: all cores)
  --specs FILE         JSON file that defines workloads (default: apps/trainer/configs/bench.json)
  --python PYTHON      Python with PyTorch, timm and einops (default: FLAMINGO_PEER_PYTHON or python3)
  --ref DIR            folder that contains a checkout of open_flamingo/ (default: FLAMINGO_PEER_REF)
  --out FILE.json      write the output of every run, one JSON line each`;

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
  const runConfig: RunConfig = {
    specs: values.specs,
    seconds: whole('--seconds', values.seconds),
    threads: whole('--threads', values.threads),
    python: values.python,
    ref: values.ref,
  };
  return {
    runConfig,
    workloads: known('workloads', positionals, Object.keys(specs)),
    peers: known('--peer', list(values.peer.join()), Object.keys(PEERS)),
    precisions: known('--precision', list(values.precision), Object.keys(PRECISIONS)) as Precision[],
    pairs: whole('--pairs', values.pairs),
    out: values.out,
  };
}

const list = (names: string) => names.split(',').map((name) => name.trim());

/**
 * Returns the requested names, or all if none is requested.
 *
 * @throws Error naming an unknown one
 */
function known(what: string, requested: readonly string[], all: readonly string[]): readonly string[] {
  const unknown = requested.find((name) => !all.includes(name));
  if (unknown !== undefined) throw new Error(`${what}: expected one of ${all.join(', ')}, got ${unknown}. ${HELP}`);
  return requested.length > 0 ? requested : all;
}

function whole(what: string, value: string): number {
  if (!/^[1-9]\d*$/.test(value)) throw new Error(`${what} must be a whole number of at least 1, got ${value}. ${HELP}`);
  return Number(value);
}

type Options = NonNullable<ReturnType<typeof options>>;

/**
 * Runs the pairs of one workload.
 *
 * @throws Error with the output of a side that failed
 */
function measure(workload: string, precision: Precision, peer: string, { runConfig, pairs, out }: Options): Pair[] {
  const run = (who: 'ours' | 'peer', pair: number): Run => {
    const side = who === 'ours' ? ours : PEERS[peer]!;
    try {
      const from = processors();
      const printed = side.run(workload, precision, runConfig);
      const to = processors();
      const result = from && to ? { ...printed, used_by_others: Number(usedByOthers(from, to).toFixed(3)) } : printed;
      // Written immediately, so that an interrupted comparison keeps its measurements.
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

/** Runs all requested comparisons. Returns whether all succeeded. */
function main(): boolean {
  const requested = options();
  if (!requested) {
    console.log(usage);
    return true;
  }
  const { runConfig, workloads, peers, precisions, pairs, out } = requested;
  const machine = `${cpus()[0]?.model.trim()}, ${runConfig.threads} threads, Node ${process.version}`;
  const load = loadavg()[0]!.toFixed(1);
  console.log(
    `${pairs} pairs, each side timed for ${runConfig.seconds} s, on ${machine}; load average before: ${load}`,
  );
  if (out !== undefined) writeFileSync(out, '');

  const tables = new Map<string, Comparison[]>();
  const failed: string[] = [];
  const reasons = new Set<string>();
  for (const peer of peers) {
    for (const precision of precisions) {
      const supported = PEERS[peer]!.precisions;
      if (!supported.includes(precision)) {
        console.log(`Skipped ${precision}: ${peer} supports only ${supported.join(', ')}.`);
        continue;
      }
      for (const workload of workloads) {
        try {
          const measured = measure(workload, precision, peer, requested);
          const comparison = compare(measured);
          const title = measured[0]!.peer.peer ?? peer;
          tables.set(title, [...(tables.get(title) ?? []), comparison]);
          console.log(formatLine(comparison, peer));
        } catch (error) {
          const { message } = error as Error;
          const what = `${workload} ${precision} against ${peer}`;
          console.log(`${what}: not compared. ${reasons.has(message) ? 'The reason is given above.' : message}`);
          failed.push(what);
          reasons.add(message);
        }
      }
    }
  }
  for (const [title, rows] of tables) {
    console.log(`\nAgainst ${title}, on ${machine}:\n\n${formatTable(rows)}`);
    const warning = describeLoad(rows);
    if (warning) console.log(`\n${warning}. Measure again while nothing else runs.`);
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
