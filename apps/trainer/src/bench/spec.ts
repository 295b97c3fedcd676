import { z } from 'zod';
import { readJson } from '../stages/files';

const size = z.number().int().positive();

/** A GPT-2 with gated cross-attention as in OpenFlamingo, on random image features. */
const model = {
  lm: z.strictObject({
    family: z.literal('gpt2'),
    layers: size,
    hidden: size,
    heads: size,
    vocab: size,
    positions: size,
  }),
  xattn: z.strictObject({ every: size, heads: size, head_dim: size, ff_mult: size }),
  resampler: z.strictObject({ depth: size, heads: size, head_dim: size, latents: size, ff_mult: size }),
  vision: z.strictObject({ dim: size, positions: size, frames: size }),
  batch: size,
  tokens: size,
  images: size,
};

const workload = z.discriminatedUnion('kind', [
  z.strictObject({ kind: z.literal('train'), ...model }),
  z.strictObject({ kind: z.literal('decode'), ...model, new_tokens: size }),
  z.strictObject({
    kind: z.literal('vision'),
    model: z.enum(['nfnet-f0', 'clip-vit-b16']),
    batch: size,
    size,
  }),
]);

/** Sizes of one workload. */
export type WorkloadSpec = z.infer<typeof workload>;
export type VisionSpec = Extract<WorkloadSpec, { kind: 'vision' }>;
export type DecodeSpec = Extract<WorkloadSpec, { kind: 'decode' }>;
export type TrainSpec = Extract<WorkloadSpec, { kind: 'train' }>;
/** Sizes of a workload with a language model. */
export type ModelSpec = TrainSpec | DecodeSpec;

const file = z.object({ about: z.string().optional() }).catchall(workload);

/** Reads workloads by name from a JSON file. */
export function readSpecs(path: string): Record<string, WorkloadSpec> {
  const parsed = file.safeParse(readJson(path, 'a JSON file that defines workloads', 'Correct --specs.'));
  if (!parsed.success) {
    throw new Error(`bench: ${path} is not a valid workload file:\n${z.prettifyError(parsed.error)}`);
  }
  const { about: _, ...workloads } = parsed.data;
  return workloads as Record<string, WorkloadSpec>;
}
