import * as tf from '@tensorflow/tfjs-core';
import {
  ACTIVATIONS,
  attention,
  borrowValues,
  checkConfig,
  constantSpec,
  disposeParams,
  embedding,
  expectParams,
  expectShape,
  expectState,
  freshParams,
  FrozenMatrix,
  FrozenTable,
  linear,
  linearAdd,
  mlp,
  linearSpec,
  loadParams,
  normalSpec,
  paramsFrom,
  relativeScores,
  retire,
  rmsNorm,
  rule,
  shapesOf,
  widened,
  type Activation,
  type ConfigRules,
  type FrozenPrecision,
  type Random,
  type StateTensor,
  type WeightSource,
} from '@flamingo-ts/kernels';
import {
  freezeLM,
  ParameterCollector,
  type CausalLM,
  type KVCache,
  type LMBlock,
  type LMContext,
} from '@flamingo-ts/lm-core';

// --- Config ---

/** Shape of a Chinchilla language model. */
export interface ChinchillaConfig {
  /** Rows of the embedding; 32,000 in the papers (SentencePiece). */
  readonly vocabSize: number;
  /** Width of the residual stream; even, for equally many sines and cosines of positions. */
  readonly hiddenSize: number;
  readonly numLayers: number;
  readonly numHeads: number;
  /** Width of keys and values per head; numHeads * headDim may differ from hiddenSize. */
  readonly headDim: number;
  /** Inner width of the feed-forward part; 4 * hiddenSize in the papers. */
  readonly intermediateSize: number;
  /** Defaults to `gelu-tanh`. */
  readonly activation?: Activation;
  /** Added inside the square root of every norm. Defaults to 1e-6. */
  readonly epsilon?: number;
  /** Factor on the embeddings at the input of the first block. Defaults to 1. */
  readonly embeddingScale?: number;
  /** Factor on the logits; small models with tied embeddings train faster with 4. Defaults to 1. */
  readonly outputScale?: number;
}

const DEFAULTS = { activation: 'gelu-tanh', epsilon: 1e-6, embeddingScale: 1, outputScale: 1 } as const;

const RULES: ConfigRules<ChinchillaConfig> = {
  vocabSize: rule.size,
  hiddenSize: rule.size,
  numLayers: rule.size,
  numHeads: rule.size,
  headDim: rule.size,
  intermediateSize: rule.size,
  activation: rule.optional(rule.oneOf(ACTIVATIONS)),
  epsilon: rule.optional(rule.number({ above: 0 })),
  embeddingScale: rule.optional(rule.number({ above: 0 })),
  outputScale: rule.optional(rule.number({ above: 0 })),
};

/** @throws Error naming the first key that is unknown or out of range */
function completeConfig(config: ChinchillaConfig): Required<ChinchillaConfig> {
  checkConfig('Chinchilla', config, RULES);
  if (config.hiddenSize % 2) {
    throw new Error(
      `Chinchilla: hiddenSize must be even, half for the sines and half for the cosines of positions, got ${config.hiddenSize}. ` +
        `Use ${config.hiddenSize + 1}.`,
    );
  }
  return { ...DEFAULTS, ...config };
}

// --- Params ---

/** May be packed by `freeze`. */
type Matrix = tf.Variable<tf.Rank.R2> | FrozenMatrix;
type Table = tf.Variable<tf.Rank.R2>;
type Vector = tf.Variable<tf.Rank.R1>;

/** Parameters of a block, by their names in a checkpoint. (Types, because interfaces are not assignable to trees.) */
export type ChinchillaLayerParams = {
  readonly attn_norm: { readonly weight: Vector };
  readonly attn: {
    readonly q_proj: { readonly weight: Matrix };
    readonly k_proj: { readonly weight: Matrix };
    readonly v_proj: { readonly weight: Matrix };
    /** Projects the sinusoid of a distance: W_r of Dai et al. 2019. */
    readonly r_proj: { readonly weight: Matrix };
    /** Added to queries for the products with keys: u of Dai et al. 2019, `[heads, headDim]`. */
    readonly content_bias: Table;
    /** Added to queries for the products with distances: v of Dai et al. 2019, `[heads, headDim]`. */
    readonly position_bias: Table;
    readonly o_proj: { readonly weight: Matrix; readonly bias: Vector };
  };
  readonly ffn_norm: { readonly weight: Vector };
  readonly ffn: {
    readonly up: { readonly weight: Matrix; readonly bias: Vector };
    readonly down: { readonly weight: Matrix; readonly bias: Vector };
  };
};

/** Parameters of the model. */
export type ChinchillaParams = {
  /** Tied: input embedding and output head. */
  readonly embed: { readonly weight: Table | FrozenTable };
  readonly layers: readonly ChinchillaLayerParams[];
  readonly final_norm: { readonly weight: Vector };
};

/** All parameters in the order of a checkpoint, and their initial values. */
function chinchillaSpecs(config: ChinchillaConfig) {
  const { vocabSize, hiddenSize, numLayers, numHeads, headDim, intermediateSize } = completeConfig(config);
  const width = numHeads * headDim;
  const std = hiddenSize ** -0.5;
  // Matrices that write into the residual stream start smaller, so that its size does not grow with depth.
  const writing = std / Math.sqrt(2 * numLayers);
  const norm = { weight: constantSpec([hiddenSize], 1) };
  return {
    embed: { weight: normalSpec([vocabSize, hiddenSize], 0.05) },
    layers: Array.from({ length: numLayers }, () => ({
      attn_norm: norm,
      attn: {
        q_proj: linearSpec(width, hiddenSize, std),
        k_proj: linearSpec(width, hiddenSize, std),
        v_proj: linearSpec(width, hiddenSize, std),
        r_proj: linearSpec(width, hiddenSize, std),
        content_bias: constantSpec([numHeads, headDim], 0),
        position_bias: constantSpec([numHeads, headDim], 0),
        o_proj: { ...linearSpec(hiddenSize, width, writing), bias: constantSpec([hiddenSize], 0) },
      },
      ffn_norm: norm,
      ffn: {
        up: { ...linearSpec(intermediateSize, hiddenSize, std), bias: constantSpec([intermediateSize], 0) },
        down: { ...linearSpec(hiddenSize, intermediateSize, writing), bias: constantSpec([hiddenSize], 0) },
      },
    })),
    final_norm: norm,
  };
}

/** Whether a parameter may be packed. */
function isMatrix(name: string, shape: readonly number[]): boolean {
  return shape.length === 2 && /^layers\..*\.weight$/.test(name);
}

/** Shape of every parameter by name, without allocating any, for counting parameters and planning memory. */
export function chinchillaShapes(config: ChinchillaConfig): Record<string, readonly number[]> {
  return shapesOf(chinchillaSpecs(config));
}

/**
 * New parameters: matrices with standard deviation hiddenSize ** -0.5, those that write into the residual stream divided by
 * sqrt(2 * numLayers) so that its size does not grow with depth, embeddings 0.05, norms 1, biases 0.
 */
export function initChinchilla(config: ChinchillaConfig, random: Random): ChinchillaParams {
  return freshParams(chinchillaSpecs(config), random);
}

// --- Parts ---

/** Shortest table of positions; longer ones double in length. */
const SHORTEST_TABLE = 64;

function tableLength(length: number): number {
  return Math.max(SHORTEST_TABLE, 2 ** Math.ceil(Math.log2(length)));
}

/** The last `length` rows of a table `[n, width]` whose row m has distance n - 1 - m. */
function nearest(table: tf.Tensor2D, length: number): tf.Tensor2D {
  const [n, width] = table.shape;
  return n === length ? table : tf.slice(table, [n - length, 0], [length, width]);
}

/** A cached table of distances that is rebuilt at least twice as long when a longer one is needed. */
class GrowingTable {
  private table: tf.Tensor2D | undefined;

  constructor(private readonly make: (length: number) => tf.Tensor2D) {}

  /** `[length, width]`, distance 0 last. */
  rows(length: number): tf.Tensor2D {
    if (!this.table || this.table.shape[0] < length) {
      this.dispose();
      this.table = tf.keep(tf.tidy(() => this.make(tableLength(length))));
    }
    return nearest(this.table, length);
  }

  dispose(): void {
    this.table?.dispose();
    this.table = undefined;
  }
}

/**
 * Sinusoids of the distances length-1 ... 0, `[length, width]`: all sines, then all cosines (Dai et al. 2019). `scale`
 * is that of the attention scores; applying it here costs nothing.
 */
function sinusoids(length: number, width: number, scale: number): tf.Tensor2D {
  const half = width / 2;
  const values = new Float32Array(length * width);
  for (let row = 0; row < length; row++) {
    for (let i = 0; i < half; i++) {
      const angle = (length - 1 - row) * 10000 ** (-i / half);
      values[row * width + i] = Math.sin(angle) * scale;
      values[row * width + half + i] = Math.cos(angle) * scale;
    }
  }
  return tf.tensor2d(values, [length, width]);
}

/** Pre-norm block: attention with relative positions, then the feed-forward part. */
export class ChinchillaBlock implements LMBlock {
  private readonly frozenPositions = new GrowingTable((length) => this.project(length));

  constructor(
    private readonly config: Required<ChinchillaConfig>,
    readonly params: ChinchillaLayerParams,
    private readonly index: number,
    private readonly distances: GrowingTable,
  ) {}

  apply(x: tf.Tensor3D, { keyMask, cache }: LMContext): tf.Tensor3D {
    const { numHeads, activation, epsilon } = this.config;
    const { attn_norm, attn, ffn_norm, ffn } = this.params;
    return tf.tidy(() => {
      const h = rmsNorm(x, attn_norm, epsilon);
      const q = linear(h, attn.q_proj) as tf.Tensor3D; //                               [b, t, h*d]
      const k = linear(h, attn.k_proj) as tf.Tensor3D;
      const v = linear(h, attn.v_proj) as tf.Tensor3D;
      const all = { keys: k, values: v, length: x.shape[1] };
      const { keys, values, length } = cache?.extend(this.index, k, v) ?? all; //       [b, s or more, h*d]
      // (q + u) k^T + (q + v) r^T, the second read at the distance of query and key.
      const r = this.positions(length, cache); //                                        [s, h*d]
      const bias = relativeScores(tf.add(q, flat(attn.position_bias)), r, numHeads); //  [b, h, t, s]
      const options = { numHeads, causal: true, bias, keyMask, keyCount: length };
      const y = attention(tf.add(q, flat(attn.content_bias)), keys, values, options);
      const z = linearAdd(y, attn.o_proj, x);
      return mlp(rmsNorm(z, ffn_norm, epsilon), ffn, activation, z) as tf.Tensor3D;
    });
  }

  dispose(): void {
    this.frozenPositions.dispose();
  }

  /** Projected distances `[length, heads*headDim]`; cached if the weights cannot change: frozen, or while decoding. */
  private positions(length: number, cache?: KVCache): tf.Tensor2D {
    if (this.params.attn.r_proj.weight instanceof FrozenMatrix) return this.frozenPositions.rows(length);
    if (!cache) return this.project(length);
    const n = tableLength(length);
    return nearest(
      cache.remember(`chinchilla.${this.index}.${n}`, () => this.project(n)),
      length,
    );
  }

  private project(length: number): tf.Tensor2D {
    return linear(this.distances.rows(length), this.params.attn.r_proj) as tf.Tensor2D;
  }
}

/** `[heads, headDim] -> [heads*headDim]` */
function flat(bias: Table): tf.Tensor1D {
  return tf.reshape(bias, [bias.size]);
}

// --- Model ---

/**
 * The language model of Chinchilla (Hoffmann et al. 2022) and Gopher (Rae et al. 2021), Flamingo's frozen core: GPT-2's
 * layout with RMSNorm and the relative positions of Transformer-XL (Dai et al. 2019), embedding and head tied. The README
 * lists what the papers leave open.
 */
export class Chinchilla implements CausalLM {
  readonly config: Required<ChinchillaConfig>;
  readonly blocks: readonly ChinchillaBlock[];
  private readonly distances: GrowingTable;

  /**
   * @param params     see `initChinchilla` and `loadChinchilla`
   * @param packedHead the output head, if it is stored separately from the embedding; `freeze` makes one
   */
  constructor(
    config: ChinchillaConfig,
    readonly params: ChinchillaParams,
    private readonly packedHead?: FrozenMatrix,
  ) {
    this.config = completeConfig(config);
    expectParams('Chinchilla', params, chinchillaShapes(config));
    const { hiddenSize, headDim } = this.config;
    this.distances = new GrowingTable((length) => sinusoids(length, hiddenSize, headDim ** -0.5));
    this.blocks = params.layers.map((layer, i) => new ChinchillaBlock(this.config, layer, i, this.distances));
  }

  get hiddenSize(): number {
    return this.config.hiddenSize;
  }

  get vocabSize(): number {
    return this.config.vocabSize;
  }

  /** int32 `[batch, text]` to float32 `[batch, text, hiddenSize]`. No positions are added: only distances matter. */
  embed(tokens: tf.Tensor2D): tf.Tensor3D {
    expectShape('Chinchilla.embed: tokens', tokens, ['batch', 'text'], 'Pass one row of token ids per text.');
    return tf.tidy(() => {
      const x = embedding(this.params.embed.weight, tokens) as tf.Tensor3D;
      return this.config.embeddingScale === 1 ? x : tf.mul(x, this.config.embeddingScale);
    });
  }

  /** Final norm and tied head: float32 `[batch, text, hiddenSize]` to `[batch, text, vocabSize]`, position by position. */
  logits(x: tf.Tensor3D): tf.Tensor3D {
    const want = ['batch', 'text', this.config.hiddenSize];
    expectShape(
      'Chinchilla.logits: x',
      x,
      want,
      'Pass the output of the last block, or rows of it as [1, n, hiddenSize].',
    );
    return tf.tidy(() => {
      const weight = this.packedHead ?? (this.params.embed.weight as Table);
      return linear(this.finalNorm(x, this.config.outputScale), { weight }) as tf.Tensor3D;
    });
  }

  /**
   * Input of the head: a logit is the product of this with the token's embedding as `embed` returns it. For callers that add
   * tokens to embedding and head.
   */
  headInput(x: tf.Tensor3D): tf.Tensor3D {
    return this.finalNorm(x, this.config.outputScale / this.config.embeddingScale);
  }

  /**
   * The same model for use without training, with matrices packed by the backend and positions projected once. Frees the
   * variables that it replaces; any further use of this object throws. Except with `float32`, the embedding becomes a
   * bfloat16 table, and the head a packed copy.
   */
  async freeze(precision: FrozenPrecision = 'float32'): Promise<Chinchilla> {
    const { params, head } = await freezeLM(this.params, this.packedHead, precision, { isMatrix, tiedHead: true });
    this.disposeTables();
    const frozen = new Chinchilla(this.config, params, head);
    retire(this, 'Chinchilla');
    return frozen;
  }

  /** Frees all tensors of the model. */
  dispose(): void {
    this.disposeTables();
    this.packedHead?.dispose();
    disposeParams(this.params);
  }

  private finalNorm(x: tf.Tensor3D, scale: number): tf.Tensor3D {
    return tf.tidy(() => {
      const h = rmsNorm(x, this.params.final_norm, this.config.epsilon) as tf.Tensor3D;
      return scale === 1 ? h : tf.mul(h, scale);
    });
  }

  private disposeTables(): void {
    this.distances.dispose();
    for (const block of this.blocks) block.dispose();
  }
}

// --- Variants ---

const paper = (numLayers: number, numHeads: number, headDim: number, hiddenSize: number): ChinchillaConfig => ({
  vocabSize: 32000,
  hiddenSize,
  numLayers,
  numHeads,
  headDim,
  intermediateSize: 4 * hiddenSize,
});

/**
 * Sizes by name. Gopher table 1 (44M to 7B), Chinchilla table 4 (70B), Flamingo table 4. For Flamingo-9B the paper
 * prints 40 layers, which would be 8.9B parameters; 32 layers are the 7.1B that it also states, and Gopher's shape.
 */
export const chinchillaPresets = {
  /** Used by the quickstart: trains in minutes on two cores. Set vocabSize to the tokenizer's. */
  'chinchilla-mini': {
    vocabSize: 1200,
    hiddenSize: 192,
    numLayers: 4,
    numHeads: 6,
    headDim: 32,
    intermediateSize: 768,
    outputScale: 4,
  },
  'chinchilla-44m': paper(8, 16, 32, 512),
  'chinchilla-117m': paper(12, 12, 64, 768),
  'chinchilla-417m': paper(12, 12, 128, 1536),
  'chinchilla-1.4b': paper(24, 16, 128, 2048),
  'chinchilla-7b': paper(32, 32, 128, 4096),
  'chinchilla-7b-printed': paper(40, 32, 128, 4096),
  'chinchilla-70b': paper(80, 64, 128, 8192),
} satisfies Record<string, ChinchillaConfig>;

export type ChinchillaPreset = keyof typeof chinchillaPresets;

/** The config of a named size. */
export function chinchillaPreset(name: string): ChinchillaConfig {
  if (!Object.hasOwn(chinchillaPresets, name)) {
    throw new Error(
      `chinchillaPreset: expected one of ${Object.keys(chinchillaPresets).join(', ')}, got ${name}. ` +
        'For another size, write a ChinchillaConfig.',
    );
  }
  return chinchillaPresets[name as ChinchillaPreset];
}

// --- Loading ---

/**
 * A model with the weights of a checkpoint.
 *
 * @param state values by name, as `chinchillaShapes` lists them
 * @param what  the file, for error messages
 */
export function loadChinchilla(
  config: ChinchillaConfig,
  state: Readonly<Record<string, StateTensor>>,
  what = 'Chinchilla',
): Chinchilla {
  return new Chinchilla(config, loadParams(chinchillaSpecs(config), state, { what }));
}

/**
 * A frozen model with the weights of a checkpoint, packed as they are read: for sizes that do not fit into memory as float32.
 *
 * @param source    an open checkpoint with the names of `chinchillaShapes`
 * @param precision of the packed matrices; bfloat16 weights of a mapped file are used without a copy
 * @param what      the file, for error messages
 */
export async function loadFrozenChinchilla(
  config: ChinchillaConfig,
  source: WeightSource,
  precision: FrozenPrecision,
  what = 'Chinchilla',
): Promise<Chinchilla> {
  const shapes = chinchillaShapes(config);
  const given = source.names.map((name) => [name, { ...source.info(name), data: new Float32Array(0) }] as const);
  expectState(shapes, Object.fromEntries(given), { what });
  const collected = new ParameterCollector(precision, { isMatrix, tiedHead: true });
  try {
    for (const [name, shape] of Object.entries(shapes)) {
      const borrowed = await borrowValues(source, name);
      const { data = [] } = borrowed ? {} : await source.read(name);
      if (!collected.add(name, borrowed?.values ?? widened(data), shape, borrowed?.close)) borrowed?.close();
    }
  } catch (error) {
    collected.dispose();
    throw error;
  }
  return new Chinchilla(config, paramsFrom(chinchillaSpecs(config), collected.params), collected.head);
}
