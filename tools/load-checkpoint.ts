/**
 * Writes a GPT-NeoX with random weights in bfloat16, as Hugging Face's folders are laid out, loads it and lets it answer:
 *
 *     npm run load-checkpoint -- [--size 3b|1.3b|tiny] [--freeze bfloat16|int8|float32] [--folder DIR] [--tokens N]
 *
 * Told are the speed of loading beside that of `cat FILE > /dev/null`, peak memory beside the bytes of the weights, and
 * the time of a token. The folder is written once and used again.
 */
import { execFileSync, fork } from 'node:child_process';
import { existsSync, readdirSync, readFileSync, statSync } from 'node:fs';
import { mkdir, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { writeSharded, type TensorToStore } from '@flamingo-ts/checkpoint';
import { Random, useBackend, type FrozenPrecision } from '@flamingo-ts/kernels';
import { DecodingSession } from '@flamingo-ts/lm-core';
import { loadCausalLM } from '@flamingo-ts/lm-hf';

/** RedPajama-INCITE-3B's shape, Pythia-1.4B's, and one to try the tool with. */
const SIZES = {
  '3b': { num_hidden_layers: 32, hidden_size: 2560, num_attention_heads: 32, vocab_size: 50432, rotary_pct: 1 },
  '1.3b': { num_hidden_layers: 24, hidden_size: 2048, num_attention_heads: 16, vocab_size: 50304, rotary_pct: 0.25 },
  tiny: { num_hidden_layers: 2, hidden_size: 128, num_attention_heads: 4, vocab_size: 1000, rotary_pct: 0.25 },
};
type Size = (typeof SIZES)[keyof typeof SIZES];

/** Every tensor of a GPT-NeoX by its name, drawn when it is asked for and never all at once. */
function tensors({
  num_hidden_layers: layers,
  hidden_size: d,
  vocab_size: vocab,
}: Size): Record<string, TensorToStore> {
  // Prime, so that rows differ; drawn once, because a draw takes longer than writing.
  const noise = Float32Array.from(
    { length: 1_000_003 },
    (
      (random) => () =>
        0.02 * random.normal()
    )(new Random(0)),
  );
  const shared = new Float32Array(vocab * d);
  for (let at = 0; at < shared.length; at += noise.length) {
    shared.set(noise.subarray(0, Math.min(noise.length, shared.length - at)), at);
  }
  const made: Record<string, TensorToStore> = {};
  const add = (name: string, ...shape: number[]) => {
    made[name] = {
      shape,
      data: shared.subarray(
        0,
        shape.reduce((a, b) => a * b, 1),
      ),
    };
  };
  const linear = (name: string, out: number, into: number) => {
    add(`${name}.weight`, out, into);
    add(`${name}.bias`, out);
  };
  const norm = (name: string) => {
    made[`${name}.weight`] = { shape: [d], data: new Float32Array(d).fill(1) };
    add(`${name}.bias`, d);
  };
  add('gpt_neox.embed_in.weight', vocab, d);
  for (let i = 0; i < layers; i++) {
    const layer = `gpt_neox.layers.${i}`;
    norm(`${layer}.input_layernorm`);
    norm(`${layer}.post_attention_layernorm`);
    linear(`${layer}.attention.query_key_value`, 3 * d, d);
    linear(`${layer}.attention.dense`, d, d);
    linear(`${layer}.mlp.dense_h_to_4h`, 4 * d, d);
    linear(`${layer}.mlp.dense_4h_to_h`, d, 4 * d);
  }
  norm('gpt_neox.final_layer_norm');
  add('embed_out.weight', vocab, d);
  return made;
}

async function write(folder: string, size: Size): Promise<void> {
  await mkdir(folder, { recursive: true });
  await writeSharded(folder, tensors(size), { floats: 'BF16', maxShardBytes: 2 ** 31 });
  const config = {
    model_type: 'gpt_neox',
    ...size,
    intermediate_size: 4 * size.hidden_size,
    max_position_embeddings: 2048,
    hidden_act: 'gelu',
    use_parallel_residual: true,
    tie_word_embeddings: false,
    layer_norm_eps: 1e-5,
    rotary_emb_base: 10000,
  };
  // Last: a folder with it is whole.
  await writeFile(join(folder, 'config.json'), JSON.stringify(config, null, 2));
}

/** What a process of its own reports. */
interface Report {
  readonly backend: string;
  readonly idleMiB: number;
  readonly loadSeconds: number;
  readonly loadedMiB: number;
  readonly firstSeconds: number;
  readonly tokenSeconds: number;
  readonly peakMiB: number;
}

/** Most memory that this process ever had. (Node's maxRSS counts what the process had that started this one.) */
function peakMiB(): number {
  const status = existsSync('/proc/self/status') ? readFileSync('/proc/self/status', 'utf8') : '';
  return Number(/^VmHWM:\s*(\d+) kB/m.exec(status)?.[1] ?? process.resourceUsage().maxRSS) / 1024;
}

const PROMPT = [1, 2, 3, 4, 5, 6, 7, 8];

async function load(folder: string, freeze: FrozenPrecision, tokens: number): Promise<Report> {
  const { name } = await useBackend('auto');
  const idleMiB = peakMiB();
  const started = performance.now();
  const { lm } = await loadCausalLM(folder, { freeze });
  const loadSeconds = (performance.now() - started) / 1000;
  const loadedMiB = peakMiB();
  const session = DecodingSession.open(lm, [PROMPT]);
  const asked = performance.now();
  let logits = await session.start();
  const firstSeconds = (performance.now() - asked) / 1000;
  const times: number[] = [];
  for (let i = 1; i < tokens; i++) {
    const from = performance.now();
    logits = await session.next([0], [logits[0]!.indexOf(Math.max(...logits[0]!))]);
    times.push((performance.now() - from) / 1000);
  }
  return {
    backend: name,
    idleMiB,
    loadSeconds,
    loadedMiB,
    firstSeconds,
    tokenSeconds: median(times),
    peakMiB: peakMiB(),
  };
}

const median = (values: number[]): number => values.sort((a, b) => a - b)[values.length >> 1]!;

function inProcess(args: readonly string[]): Promise<Report> {
  return new Promise((resolve, reject) => {
    const child = fork(import.meta.filename, [...args, '--child']);
    child.on('message', (report) => resolve(report as Report));
    child.on('exit', (status) => reject(new Error(`load-checkpoint: loading ended with status ${status}.`)));
  });
}

const { values } = parseArgs({
  options: {
    size: { type: 'string', default: '3b' },
    freeze: { type: 'string', default: 'bfloat16' },
    folder: { type: 'string' },
    tokens: { type: 'string', default: '12' },
    child: { type: 'boolean', default: false },
  },
});
const size = SIZES[values.size as keyof typeof SIZES];
if (!size)
  throw new Error(`load-checkpoint: --size must be one of ${Object.keys(SIZES).join(', ')}, got ${values.size}.`);
const folder = values.folder ?? join(tmpdir(), `flamingo-checkpoint-${values.size}`);
const freeze = values.freeze as FrozenPrecision;

if (values.child) {
  process.send!(await load(folder, freeze, Number(values.tokens)));
} else {
  if (!existsSync(join(folder, 'config.json'))) {
    process.stderr.write(`writing ${folder}\n`);
    await write(folder, size);
  }
  const files = readdirSync(folder).filter((file) => file.endsWith('.safetensors'));
  const paths = files.map((file) => join(folder, file));
  const bytes = paths.reduce((sum, path) => sum + statSync(path).size, 0);
  const cat = () => {
    const started = performance.now();
    execFileSync('sh', ['-c', 'cat "$@" > /dev/null', 'sh', ...paths]);
    return (performance.now() - started) / 1000;
  };
  cat(); // warms the cache
  const [before, r] = [median([cat(), cat(), cat()]), await inProcess(process.argv.slice(2))];
  const catSeconds = median([before, cat(), cat()]);
  const [gigabytes, mebibytes] = [bytes / 1e9, bytes / 2 ** 20];
  const rate = (seconds: number) => `${seconds.toFixed(2)} s, ${(gigabytes / seconds).toFixed(2)} GB/s`;
  console.log(`${values.size} in bfloat16, ${gigabytes.toFixed(2)} GB; frozen as ${freeze} on ${r.backend}
cat                  ${rate(catSeconds)}
loading              ${rate(r.loadSeconds)}, ${(catSeconds / r.loadSeconds).toFixed(2)} of cat's speed
peak when loaded     ${r.loadedMiB.toFixed(0)} MiB (${r.idleMiB.toFixed(0)} before), ${(r.loadedMiB / mebibytes).toFixed(3)} of the file
first answer         ${r.firstSeconds.toFixed(2)} s for ${PROMPT.length} tokens
a token              ${(1000 * r.tokenSeconds).toFixed(0)} ms
peak in the end      ${r.peakMiB.toFixed(0)} MiB, ${(r.peakMiB / mebibytes).toFixed(3)} of the file`);
}
