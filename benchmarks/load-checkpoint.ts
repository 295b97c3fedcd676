/**
 * Writes a language model with random bfloat16 weights as a Hugging Face folder, loads it and generates an answer:
 *
 *     npm run load-checkpoint -- [--size 3b|1.4b|tiny] [--freeze bfloat16|int8|float32] [--folder DIR] [--tokens N]
 *         [--python PYTHON]
 *
 * Reports the loading speed relative to `cat FILE > /dev/null`, peak memory relative to the size of the weights, and the
 * time per token. Reuses the folder if it exists. Given a Python with PyTorch and transformers (`--python` or
 * FLAMINGO_PEER_PYTHON), reports the same for them.
 */
import { execFileSync, fork } from 'node:child_process';
import { existsSync, readdirSync, readFileSync, statSync } from 'node:fs';
import { mkdir, writeFile } from 'node:fs/promises';
import { availableParallelism, tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { writeSharded, type TensorToStore } from '@flamingo-ts/checkpoint';
import { Random, useBackend, type FrozenPrecision } from '@flamingo-ts/kernels';
import { DecodingSession } from '@flamingo-ts/lm-core';
import { loadCausalLM, type HFConfigJson } from '@flamingo-ts/lm-hf';

/** Keys that every config.json has. */
const common = { max_position_embeddings: 2048, tie_word_embeddings: false };
/** The shapes of OpenLLaMA 3B and Pythia-1.4B, and a small one to try this script with. */
const SIZES = {
  '3b': {
    ...common,
    model_type: 'llama',
    vocab_size: 32000,
    hidden_size: 3200,
    intermediate_size: 8640,
    num_hidden_layers: 26,
    num_attention_heads: 32,
    hidden_act: 'silu',
    rms_norm_eps: 1e-6,
  },
  '1.4b': neox(24, 2048, 16, 50304),
  tiny: neox(2, 128, 4, 1000),
} satisfies Record<string, HFConfigJson>;
type Size = keyof typeof SIZES;

function neox(layers: number, width: number, heads: number, vocabulary: number) {
  return {
    ...common,
    model_type: 'gpt_neox',
    vocab_size: vocabulary,
    hidden_size: width,
    intermediate_size: 4 * width,
    num_hidden_layers: layers,
    num_attention_heads: heads,
    rotary_pct: 0.25,
    rotary_emb_base: 10000,
    hidden_act: 'gelu',
    use_parallel_residual: true,
    layer_norm_eps: 1e-5,
  };
}

type Add = (name: string, ...shape: number[]) => void;

/** Names and shapes of a layer's tensors in published checkpoints, by model family. Norm weights have the prefix `norm:`. */
const LAYERS: Record<string, (add: Add, width: number, inner: number) => void> = {
  gpt_neox(add, d, inner) {
    for (const name of ['input_layernorm', 'post_attention_layernorm']) {
      add(`norm:${name}.weight`, d);
      add(`${name}.bias`, d);
    }
    const matrices: Record<string, [number, number]> = {
      'attention.query_key_value': [3 * d, d],
      'attention.dense': [d, d],
      'mlp.dense_h_to_4h': [inner, d],
      'mlp.dense_4h_to_h': [d, inner],
    };
    for (const [name, [out, into]] of Object.entries(matrices)) {
      add(`${name}.weight`, out, into);
      add(`${name}.bias`, out);
    }
  },
  llama(add, d, inner) {
    for (const name of ['input_layernorm', 'post_attention_layernorm']) add(`norm:${name}.weight`, d);
    for (const name of ['q', 'k', 'v', 'o']) add(`self_attn.${name}_proj.weight`, d, d);
    for (const name of ['gate', 'up']) add(`mlp.${name}_proj.weight`, inner, d);
    add('mlp.down_proj.weight', d, inner);
  },
};

/** All tensors of a model by name. Large ones share one array of random numbers, so that they fit in memory. */
function tensors(size: Size): Record<string, TensorToStore> {
  const config = SIZES[size];
  const { model_type: family, num_hidden_layers: layers, hidden_size: d, vocab_size: vocabulary } = config;
  // Drawn once, because drawing is slower than writing. The length is prime, so that rows differ.
  const random = new Random(0);
  const noise = Float32Array.from({ length: 1_000_003 }, () => 0.02 * random.normal());
  const shared = new Float32Array(vocabulary * d);
  for (let at = 0; at < shared.length; at += noise.length) {
    shared.set(noise.subarray(0, Math.min(noise.length, shared.length - at)), at);
  }
  const made: Record<string, TensorToStore> = {};
  const under =
    (prefix: string): Add =>
    (given, ...shape) => {
      const count = shape.reduce((a, b) => a * b, 1);
      const name = given.replace('norm:', '');
      made[prefix + name] = {
        shape,
        data: name === given ? shared.subarray(0, count) : new Float32Array(count).fill(1),
      };
    };
  const isNeoX = family === 'gpt_neox';
  const [model, whole] = [under(isNeoX ? 'gpt_neox.' : 'model.'), under('')];
  model(`${isNeoX ? 'embed_in' : 'embed_tokens'}.weight`, vocabulary, d);
  for (let i = 0; i < layers; i++) {
    LAYERS[family]!(under(`${isNeoX ? 'gpt_neox' : 'model'}.layers.${i}.`), d, config.intermediate_size);
  }
  model(`norm:${isNeoX ? 'final_layer_norm' : 'norm'}.weight`, d);
  if (isNeoX) model('final_layer_norm.bias', d);
  whole(`${isNeoX ? 'embed_out' : 'lm_head'}.weight`, vocabulary, d);
  return made;
}

async function write(folder: string, size: Size): Promise<void> {
  await mkdir(folder, { recursive: true });
  await writeSharded(folder, tensors(size), { floats: 'BF16', maxShardBytes: 2 ** 31 });
  // Written last: a folder with this file is complete.
  await writeFile(join(folder, 'config.json'), JSON.stringify(SIZES[size], null, 2));
}

/** Measurements of one process. */
interface Report {
  readonly backend: string;
  readonly idleMiB: number;
  readonly loadSeconds: number;
  readonly loadedMiB: number;
  readonly firstSeconds: number;
  readonly tokenSeconds: number;
  readonly peakMiB: number;
}

/** Peak memory of this process. (Node's maxRSS also includes the memory of its parent before the fork.) */
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
  const from = performance.now();
  let logits = await session.start();
  const firstSeconds = (performance.now() - from) / 1000;
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
    child.on('exit', (status) =>
      reject(new Error(`load-checkpoint: the loading process ended with status ${status}.`)),
    );
  });
}

const { values } = parseArgs({
  options: {
    size: { type: 'string', default: '3b' },
    freeze: { type: 'string', default: 'bfloat16' },
    folder: { type: 'string' },
    tokens: { type: 'string', default: '12' },
    python: { type: 'string', default: process.env['FLAMINGO_PEER_PYTHON'] },
    child: { type: 'boolean', default: false },
  },
});
const size = values.size as Size;
if (!Object.hasOwn(SIZES, size))
  throw new Error(`load-checkpoint: --size must be one of ${Object.keys(SIZES).join(', ')}, got ${values.size}.`);
const folder = values.folder ?? join(tmpdir(), `flamingo-checkpoint-${values.size}`);
const freeze = values.freeze as FrozenPrecision;

if (values.child) {
  process.send!(await load(folder, freeze, Number(values.tokens)));
} else {
  if (!existsSync(join(folder, 'config.json'))) {
    process.stderr.write(`Writing ${folder}\n`);
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
  const share = (mib: number) => `${mib.toFixed(0)} MiB, ${(mib / mebibytes).toFixed(3)} of the file`;
  const show = (report: Report) =>
    console.log(`${report.backend}, ${freeze}
  loading          ${rate(report.loadSeconds)}, ${(catSeconds / report.loadSeconds).toFixed(2)} of cat's speed
  peak memory      ${share(report.loadedMiB)} (before: ${report.idleMiB.toFixed(0)} MiB)
  first answer     ${report.firstSeconds.toFixed(2)} s for ${PROMPT.length} tokens
  per token        ${(1000 * report.tokenSeconds).toFixed(0)} ms
  final peak       ${share(report.peakMiB)}`);
  console.log(`${size} in bfloat16, ${gigabytes.toFixed(2)} GB; cat: ${rate(catSeconds)}`);
  show(r);
  if (values.python) {
    const script = join(import.meta.dirname, 'load-checkpoint-peer.py');
    const args = [script, folder, freeze, values.tokens, String(availableParallelism())];
    show(JSON.parse(execFileSync(values.python, args, { encoding: 'utf8' })) as Report);
  }
}
