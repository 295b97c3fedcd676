import { flamingoPreset, flamingoShapes, type FlamingoArchitecture, type FlamingoShapes } from '@flamingo-ts/flamingo';
import { nfnetFlops } from '@flamingo-ts/nfnet';

/** The part of an update that comes from one dataset. */
interface StepData {
  readonly name: string;
  /** Sequences per update. */
  readonly batch: number;
  readonly tokens: number;
  readonly media: number;
  readonly frames: number;
}

/** The batches of the paper's ablations (section 4.4 of its first version). The paper omits those of the final models. */
const PAPER_STEP: readonly StepData[] = [
  { name: 'M3W', batch: 256, tokens: 256, media: 5, frames: 1 },
  { name: 'ALIGN', batch: 512, tokens: 32, media: 1, frames: 1 },
  { name: 'LTIP', batch: 512, tokens: 64, media: 1, frames: 1 },
  { name: 'VTP', batch: 64, tokens: 32, media: 1, frames: 8 },
];

/** Bytes per scalar: bfloat16 for frozen weights and activations, float32 for everything else. Adam keeps two averages. */
const FROZEN_BYTES = 2;
const TRAINED_BYTES = 4;
const GRADIENT_BYTES = 4;
const ADAM_BYTES = 8;
const ACTIVATION_BYTES = 2;

export interface Plan {
  readonly preset: string;
  readonly devices: number;
  /** Number of scalars in each part. */
  readonly parameters: Record<'lm' | 'vision' | 'xattn' | 'resampler' | 'total', number>;
  readonly trained: number;
  /** Bytes on each device, with data parallelism and the optimizer state sharded over all devices (ZeRO stage 1). */
  readonly memoryPerDevice: Record<'frozen' | 'trained' | 'gradients' | 'optimizer' | 'activations' | 'total', number>;
  /** Floating-point operations of one update over all datasets and devices. */
  readonly flopsPerStep: Record<'vision' | 'resampler' | 'xattn' | 'lm' | 'total', number>;
  /** The data of an update. */
  readonly step: readonly StepData[];
}

/**
 * Counts the parameters, memory and operations of a preset from the shapes of its models.
 *
 * @param preset  3b, 9b or 80b
 * @param devices number of accelerators that share an update
 */
export function planTraining(preset: string, devices: number): Plan {
  if (!Number.isInteger(devices) || devices < 1) {
    throw new Error(`plan: --devices must be a whole number of at least 1, got ${devices}.`);
  }
  const architecture = flamingoPreset(preset);
  const shapes = flamingoShapes(architecture);
  const count = (part: keyof FlamingoShapes) => Object.values(shapes[part]).reduce((n, s) => n + sizeOf(s), 0);
  const parts = { lm: count('lm'), vision: count('vision'), xattn: count('xattn'), resampler: count('resampler') };
  const trained = parts.xattn + parts.resampler;
  const flops = flopsOf(architecture, shapes);
  const memory = {
    frozen: FROZEN_BYTES * (parts.lm + parts.vision),
    trained: TRAINED_BYTES * trained,
    gradients: GRADIENT_BYTES * trained,
    optimizer: Math.ceil((ADAM_BYTES * trained) / devices),
    activations: activationBytes(shapes, architecture, devices),
  };
  return {
    preset,
    devices,
    parameters: { ...parts, total: parts.lm + parts.vision + trained },
    trained,
    memoryPerDevice: { ...memory, total: Object.values(memory).reduce((a, b) => a + b, 0) },
    flopsPerStep: flops,
    step: PAPER_STEP,
  };
}

const sizeOf = (shape: readonly number[]): number => shape.reduce((a, b) => a * b, 1);

/** Number of positions in the encoder's feature map. */
function patchesOf({ vision }: FlamingoArchitecture): number {
  const side = [...vision.stemStrides, ...vision.strides].reduce((n, s) => Math.ceil(n / s), vision.imageSize);
  return side * side;
}

/** Number of text tokens, latents and image features in one sequence: the rows that matrices multiply. */
function rowsOf(a: FlamingoArchitecture, d: StepData) {
  const features = d.media * d.frames * patchesOf(a);
  const latents = d.media * a.resampler.numLatents;
  return { text: d.tokens, latents, features };
}

/** Every matrix outside the vision encoder: its shape, and the number of rows that it multiplies in one sequence. */
function matricesOf(shapes: FlamingoShapes, rows: ReturnType<typeof rowsOf>) {
  return (['resampler', 'xattn', 'lm'] as const).flatMap((part) =>
    Object.entries(shapes[part])
      .filter(([name, shape]) => shape.length === 2 && name.endsWith('.weight'))
      .map(([name, shape]) => ({ part, shape, rows: part === 'lm' ? rows.text : rowsOfMatrix(part, name, rows) })),
  );
}

/** Number of rows that a matrix of the resampler or the gated blocks multiplies. */
function rowsOfMatrix(part: 'resampler' | 'xattn', name: string, rows: ReturnType<typeof rowsOf>): number {
  const isKeyOrValue = /(^|\.)(key|value)\.weight$/.test(name);
  if (part === 'xattn') return isKeyOrValue || name.startsWith('mediaProjection') ? rows.latents : rows.text;
  if (name.startsWith('inputProjection')) return rows.features;
  return isKeyOrValue ? rows.features + rows.latents : rows.latents;
}

/**
 * Counts the operations of one update; a multiply-add counts as two. The backward pass costs two forward passes for trained
 * weights, and one for frozen weights that a gradient flows through. No gradient flows into the vision encoder.
 */
function flopsOf(a: FlamingoArchitecture, shapes: FlamingoShapes): Plan['flopsPerStep'] {
  const flops = { vision: 0, resampler: 0, xattn: 0, lm: 0 };
  for (const d of PAPER_STEP) {
    const rows = rowsOf(a, d);
    flops.vision += d.batch * d.media * d.frames * nfnetFlops(a.vision);
    for (const m of matricesOf(shapes, rows)) {
      flops[m.part] += d.batch * (m.part === 'lm' ? 4 : 6) * sizeOf(m.shape) * m.rows;
    }
    const { numLayers, numHeads, headDim, numLatents } = a.resampler;
    const keys = rows.features / d.media + numLatents;
    flops.resampler += d.batch * d.media * numLayers * 12 * numLatents * keys * numHeads * headDim;
    const gated = Math.ceil(a.lm.numLayers / a.xattn.every);
    flops.xattn += d.batch * gated * 12 * d.tokens * numLatents * a.xattn.numHeads * a.xattn.headDim;

    // Causal attention computes half of all scores.
    flops.lm += d.batch * a.lm.numLayers * 12 * d.tokens * (d.tokens / 2) * a.lm.numHeads * a.lm.headDim;
  }
  return { ...flops, total: flops.vision + flops.resampler + flops.xattn + flops.lm };
}

/**
 * Bytes kept for the backward pass on one device: the input of every matrix. Datasets run one after another, so the largest
 * one counts. Excludes the temporary memory of kernels.
 */
function activationBytes(shapes: FlamingoShapes, a: FlamingoArchitecture, devices: number): number {
  const perDataset = PAPER_STEP.map((d) => {
    const scalars = matricesOf(shapes, rowsOf(a, d)).reduce((n, m) => n + m.shape[1]! * m.rows, 0);
    return Math.ceil(d.batch / devices) * scalars * ACTIVATION_BYTES;
  });
  return Math.max(...perDataset);
}

/** Formats a plan as text. */
export function formatPlan(plan: Plan): string {
  const { parameters: p, memoryPerDevice: m, flopsPerStep: f } = plan;
  const count = (n: number) => (n >= 1e9 ? `${(n / 1e9).toFixed(2)}B` : `${(n / 1e6).toFixed(1)}M`);
  const gib = (n: number) => `${(n / 2 ** 30).toFixed(1)} GiB`;
  const work = (n: number) => `${(n / 1e15).toFixed(2)} PFLOP`;
  const row = (name: string, value: string, note = '') =>
    `  ${name.padEnd(14)}${value.padStart(14)}  ${note}`.trimEnd();
  return [
    `Flamingo ${plan.preset} on ${plan.devices} device${plan.devices > 1 ? 's' : ''}`,
    'parameters',
    row('lm', count(p.lm), 'frozen'),
    row('vision', count(p.vision), 'frozen'),
    row('xattn', count(p.xattn), 'trained'),
    row('resampler', count(p.resampler), 'trained'),
    row('total', count(p.total)),
    'memory per device (data parallel, optimizer state sharded over the devices)',
    row('frozen', gib(m.frozen), 'bfloat16'),
    row('trained', gib(m.trained), 'float32'),
    row('gradients', gib(m.gradients), 'float32'),
    row('optimizer', gib(m.optimizer), 'two float32 per trained parameter, sharded'),
    row('activations', gib(m.activations), 'of the largest dataset, bfloat16'),
    row('total', gib(m.total)),
    'operations per update',
    row('vision', work(f.vision), 'forward only'),
    row('resampler', work(f.resampler)),
    row('xattn', work(f.xattn)),
    row('lm', work(f.lm), 'gradients flow through'),
    row('total', work(f.total)),
    `an update uses ${plan.step.map((d) => `${d.batch} x ${d.tokens} tokens of ${d.name}`).join(', ')}`,
  ].join('\n');
}
