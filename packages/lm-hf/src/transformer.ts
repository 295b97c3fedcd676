import * as tf from '@tensorflow/tfjs-core';
import {
  ACTIVATIONS,
  attention,
  checkConfig,
  constantSpec,
  disposeParams,
  embedding,
  expectParams,
  expectShape,
  freshParams,
  FrozenMatrix,
  FrozenTable,
  layerNorm,
  innerLinear,
  linear,
  linearAdd,
  linearSpec,
  mlp,
  normalSpec,
  paramsFrom,
  retire,
  rmsNorm,
  rotary,
  rule,
  shapesOf,
  type Activation,
  type ConfigRules,
  type FrozenPrecision,
  type Parameter,
  type Random,
} from '@flamingo-ts/kernels';
import { freezeLM, type CausalLM, type LMBlock, type LMContext } from '@flamingo-ts/lm-core';
import { AlibiTable, pastOf, RotaryTable, tokenPositions, type Positions } from './positions';

// --- Config ---

/** A config that covers all families; each family's file derives one from a config.json. */
export interface TransformerConfig {
  readonly vocabSize: number;
  /** Width of the residual stream. */
  readonly hiddenSize: number;
  readonly numLayers: number;
  /** Query heads. */
  readonly numHeads: number;
  /** Heads of keys and values; each serves numHeads / numKeyValueHeads neighboring query heads. */
  readonly numKeyValueHeads: number;
  /** Width of a head; numHeads * headDim may differ from hiddenSize. */
  readonly headDim: number;
  /** Inner width of the feed-forward part. */
  readonly intermediateSize: number;
  /** Width of the embedding; if it is not hiddenSize, projections convert between both (OPT 350M). */
  readonly embeddingSize: number;
  readonly positions: Positions;
  readonly norm: { readonly kind: 'layer' | 'rms'; readonly bias: boolean; readonly epsilon: number };
  /** Where a block applies its norms. With `parallel`, attention and feed-forward part both read the block's input. */
  readonly residual: 'pre-norm' | 'parallel' | 'post-norm';
  /** Whether there is a norm before the head. */
  readonly finalNorm: boolean;
  readonly activation: Activation;
  /** down(activation(gate(x)) * up(x)) instead of down(activation(up(x))). */
  readonly gatedMLP: boolean;
  /** Whether query, key, value and output projections have biases. */
  readonly attentionBias: boolean;
  readonly mlpBias: boolean;
  /** Whether the head uses the weights of the embedding. */
  readonly tiedHead: boolean;
  /** Factor on the scores. Defaults to headDim ** -0.5. */
  readonly attentionScale?: number;
  /** Clips queries, keys and values to this magnitude (MPT). */
  readonly clipQKV?: number;
  /** Whether queries and keys are normalized over all heads together (MosaicGPT). */
  readonly queryKeyNorm?: boolean;
}

const RULES: ConfigRules<TransformerConfig> = {
  vocabSize: rule.size,
  hiddenSize: rule.size,
  numLayers: rule.size,
  numHeads: rule.size,
  numKeyValueHeads: rule.size,
  headDim: rule.size,
  intermediateSize: rule.size,
  embeddingSize: rule.size,
  positions: rule.kinds<Positions>({
    learned: { rows: rule.size, offset: rule.integer({ min: 0 }) },
    rotary: { frequencies: rule.list(rule.number()) },
    alibi: { slopes: rule.list(rule.number()) },
  }),
  norm: rule.object<TransformerConfig['norm']>({
    kind: rule.oneOf(['layer', 'rms']),
    bias: rule.boolean,
    epsilon: rule.number({ min: 0 }),
  }),
  residual: rule.oneOf(['pre-norm', 'parallel', 'post-norm']),
  finalNorm: rule.boolean,
  activation: rule.oneOf(ACTIVATIONS),
  gatedMLP: rule.boolean,
  attentionBias: rule.boolean,
  mlpBias: rule.boolean,
  tiedHead: rule.boolean,
  attentionScale: rule.optional(rule.number()),
  clipQKV: rule.optional(rule.number({ above: 0 })),
  queryKeyNorm: rule.optional(rule.boolean),
};

/** @throws Error naming the first value that is out of range or does not fit the others */
export function checkTransformerConfig(config: TransformerConfig, what: string): void {
  const fail = (problem: string) => {
    throw new Error(`${what}: ${problem}. Check that config.json is that of the checkpoint.`);
  };
  checkConfig(what, config, RULES);
  const { numHeads, numKeyValueHeads, headDim, positions } = config;
  if (numHeads % numKeyValueHeads) {
    fail(
      `the number of query heads, ${numHeads}, must be a multiple of the number of key and value heads, got ${numKeyValueHeads}`,
    );
  }
  const rotaryChannels = positions.kind === 'rotary' ? 2 * positions.frequencies.length : 0;
  if (!Number.isInteger(rotaryChannels / 2) || rotaryChannels > headDim) {
    fail(`the rotary channels of a head must be an even number of at most ${headDim}, got ${rotaryChannels}`);
  }
}

// --- Params ---

/** May be packed. */
type Matrix = tf.Variable<tf.Rank.R2> | FrozenMatrix;
type Table = tf.Variable<tf.Rank.R2>;
type Vector = tf.Variable<tf.Rank.R1>;

/** Without a bias if it is absent. */
type Norm = { readonly weight: Vector; readonly bias?: Vector };
type Linear = { readonly weight: Matrix; readonly bias?: Vector };

/** Parameters of a block, by their names in our checkpoints. (Types, because interfaces are not assignable to trees.) */
export type TransformerLayerParams = {
  readonly attn_norm: Norm;
  readonly attn: {
    readonly q_proj: Linear;
    readonly k_proj: Linear;
    readonly v_proj: Linear;
    readonly q_norm?: Norm;
    readonly k_norm?: Norm;
    readonly o_proj: Linear;
  };
  readonly ffn_norm: Norm;
  readonly ffn: { readonly gate?: Linear; readonly up: Linear; readonly down: Linear };
};

/** Parameters of the model. */
export type TransformerParams = {
  readonly embed: { readonly weight: Table | FrozenTable };
  /** `[hiddenSize, embeddingSize]` */
  readonly embed_proj?: { readonly weight: Matrix };
  readonly positions?: { readonly weight: Table };
  readonly layers: readonly TransformerLayerParams[];
  readonly final_norm?: Norm;
  /** `[embeddingSize, hiddenSize]` */
  readonly head_proj?: { readonly weight: Matrix };
  /** `[vocabSize, embeddingSize]`, unless tied to the embedding. */
  readonly head?: { readonly weight: Matrix };
};

/** All parameters in the order of the model, and their initial values. */
function transformerSpecs(config: TransformerConfig) {
  const { vocabSize, hiddenSize, embeddingSize, numLayers, numHeads, numKeyValueHeads, headDim } = config;
  const { intermediateSize, positions, attentionBias, mlpBias, queryKeyNorm, gatedMLP } = config;
  const [queries, keys] = [numHeads * headDim, numKeyValueHeads * headDim];
  // Matrices that write into the residual stream start smaller, so that its size does not grow with depth.
  const writing = (2 * numLayers) ** -0.5;
  const dense = (out: number, into: number, bias: boolean, scale = 1) => ({
    ...linearSpec(out, into, scale * into ** -0.5),
    bias: bias ? constantSpec([out], 0) : undefined,
  });
  const norm = (size: number) => ({
    weight: constantSpec([size], 1),
    bias: config.norm.bias ? constantSpec([size], 0) : undefined,
  });
  const table = (rows: number, width: number) => ({ weight: normalSpec([rows, width], 0.02) });
  const projected = embeddingSize !== hiddenSize;
  return {
    embed: table(vocabSize, embeddingSize),
    embed_proj: projected ? linearSpec(hiddenSize, embeddingSize) : undefined,
    positions: positions.kind === 'learned' ? table(positions.rows, hiddenSize) : undefined,
    layers: Array.from({ length: numLayers }, () => ({
      attn_norm: norm(hiddenSize),
      attn: {
        q_proj: dense(queries, hiddenSize, attentionBias),
        k_proj: dense(keys, hiddenSize, attentionBias),
        v_proj: dense(keys, hiddenSize, attentionBias),
        q_norm: queryKeyNorm ? norm(queries) : undefined,
        k_norm: queryKeyNorm ? norm(keys) : undefined,
        o_proj: dense(hiddenSize, queries, attentionBias, writing),
      },
      ffn_norm: norm(hiddenSize),
      ffn: {
        gate: gatedMLP ? dense(intermediateSize, hiddenSize, mlpBias) : undefined,
        up: dense(intermediateSize, hiddenSize, mlpBias),
        down: dense(hiddenSize, intermediateSize, mlpBias, writing),
      },
    })),
    final_norm: config.finalNorm ? norm(hiddenSize) : undefined,
    head_proj: projected ? linearSpec(embeddingSize, hiddenSize) : undefined,
    head: config.tiedHead ? undefined : linearSpec(vocabSize, embeddingSize),
  };
}

/** Shape of every parameter by name, without allocating any. */
export function transformerShapes(config: TransformerConfig): Record<string, readonly number[]> {
  return shapesOf(transformerSpecs(config));
}

/**
 * New parameters: matrices with standard deviation inputs ** -0.5, those that write into the residual stream divided by
 * sqrt(2 * numLayers), embeddings and learned positions 0.02 as in GPT-2, norms 1, biases 0.
 *
 * @param precision if given, matrices are packed as they are made
 */
export function initTransformer(
  config: TransformerConfig,
  random: Random,
  precision?: FrozenPrecision,
): TransformerParams {
  const packing = precision && { chosen: isMatrix, precision };
  return freshParams(transformerSpecs(config), random, packing);
}

/** A parameter tree from parameters by name, as `transformerShapes` lists them. */
export function gathered(config: TransformerConfig, params: ReadonlyMap<string, Parameter>): TransformerParams {
  return paramsFrom(transformerSpecs(config), params);
}

/** Whether a parameter is a matrix that may be packed; rows of tables are looked up instead. */
export function isMatrix(name: string, shape: readonly number[]): boolean {
  return shape.length === 2 && !/^(embed|positions)\./.test(name);
}

// --- Parts ---

function applyNorm(x: tf.Tensor, p: Norm, { norm }: TransformerConfig): tf.Tensor3D {
  const { kind, epsilon } = norm;
  return (kind === 'rms' ? rmsNorm(x, p, epsilon) : layerNorm(x, p, epsilon)) as tf.Tensor3D;
}

/** Repeats each head: `[b, s, heads*headDim]` to `[b, s, heads*times*headDim]`. */
function repeatHeads(x: tf.Tensor3D, headDim: number, times: number): tf.Tensor3D {
  if (times === 1) return x;
  const [b, s, width] = x.shape;
  const apart = tf.reshape(x, [b * s, width / headDim, 1, headDim]);
  // A product, because its gradient is one sum; that of tf.tile is one slice per repetition.
  return tf.reshape(tf.mul(apart, tf.ones([1, 1, times, 1])), [b, s, width * times]);
}

/** A block: attention and feed-forward part. */
export class TransformerBlock implements LMBlock {
  constructor(
    private readonly config: TransformerConfig,
    readonly params: TransformerLayerParams,
    private readonly index: number,
    private readonly tables: { readonly rotary?: RotaryTable; readonly alibi?: AlibiTable },
  ) {}

  apply(x: tf.Tensor3D, context: LMContext): tf.Tensor3D {
    const { config } = this;
    const { attn_norm, ffn_norm } = this.params;
    return tf.tidy(() => {
      if (config.residual === 'post-norm') {
        const y = applyNorm(this.attend(x, x, context), attn_norm, config);
        return applyNorm(this.feedForward(y, y), ffn_norm, config);
      }
      const y = this.attend(applyNorm(x, attn_norm, config), x, context);
      const read = config.residual === 'parallel' ? x : y;
      return this.feedForward(applyNorm(read, ffn_norm, config), y);
    });
  }

  /** Attention, added to the stream. */
  private attend(x: tf.Tensor3D, stream: tf.Tensor3D, context: LMContext): tf.Tensor3D {
    const { numHeads, numKeyValueHeads, headDim, attentionScale: scale } = this.config;
    const { v_proj, q_norm, k_norm, q_proj, k_proj, o_proj } = this.params.attn;
    const { keyMask, cache } = context;
    const turns = this.tables.rotary?.rows(x.shape[1], pastOf(context), keyMask);
    const times = numHeads / numKeyValueHeads;
    const place = (p: Linear, norm?: Norm): tf.Tensor3D => {
      const h = this.project(x, p, !(norm ?? turns));
      const normed = norm ? applyNorm(h, norm, this.config) : h;
      return turns ? rotary(normed, turns, headDim) : normed;
    };
    const q = place(q_proj, q_norm); //                                                 [b, t, heads*d]
    const k = place(k_proj, k_norm); //                                                 [b, t, kvHeads*d]
    const v = this.project(x, v_proj, true);
    const all = { keys: k, values: v, length: x.shape[1] };
    const { keys, values, length } = cache?.extend(this.index, k, v) ?? all; //         [b, s or more, kvHeads*d]
    const bias = this.tables.alibi?.bias(length, keyMask); //                           [1|b, heads, 1, s]
    const seen = attention(q, repeatHeads(keys, headDim, times), repeatHeads(values, headDim, times), {
      numHeads,
      scale,
      causal: true,
      bias,
      keyMask,
      keyCount: length,
    });
    return linearAdd(seen, o_proj, stream);
  }

  /** Queries, keys or values; `inner` if they are multiplied without further changes. */
  private project(x: tf.Tensor3D, p: Linear, inner: boolean): tf.Tensor3D {
    const { clipQKV } = this.config;
    const y = (inner && clipQKV === undefined ? innerLinear(x, p) : linear(x, p)) as tf.Tensor3D;
    return clipQKV === undefined ? y : tf.clipByValue(y, -clipQKV, clipQKV);
  }

  /** The feed-forward part, added to the stream. */
  private feedForward(x: tf.Tensor3D, stream: tf.Tensor3D): tf.Tensor3D {
    const { gate, up, down } = this.params.ffn;
    const { activation } = this.config;
    if (!gate) return mlp(x, { up, down }, activation, stream) as tf.Tensor3D;
    return linearAdd(tf.mul(linear(x, gate, activation), linear(x, up)), down, stream);
  }
}

// --- Model ---

/** A decoder-only transformer of one of the families. */
export class Transformer implements CausalLM {
  readonly blocks: readonly TransformerBlock[];
  /**
   * With a tied head: the input of the head, so that a logit is the product of this with the token's embedding. For callers
   * that add tokens to embedding and head; undefined for other models.
   */
  declare readonly headInput?: (x: tf.Tensor3D) => tf.Tensor3D;
  /** With a separate head: its input. */
  declare readonly separateHeadInput?: (x: tf.Tensor3D) => tf.Tensor3D;
  private readonly rotary: RotaryTable | undefined;
  private readonly alibi: AlibiTable | undefined;

  /**
   * @param params     see `initCausalLM` and `loadCausalLM`
   * @param packedHead a tied head that is stored separately from the embedding; `freeze` makes one
   */
  constructor(
    readonly config: TransformerConfig,
    readonly params: TransformerParams,
    private readonly packedHead?: FrozenMatrix,
  ) {
    checkTransformerConfig(config, 'Transformer');
    expectParams('Transformer', params, transformerShapes(config));
    const { positions, tiedHead, hiddenSize, embeddingSize } = config;
    if (positions.kind === 'rotary') this.rotary = new RotaryTable(positions.frequencies);
    if (positions.kind === 'alibi') this.alibi = new AlibiTable(positions.slopes);
    const tables = { rotary: this.rotary, alibi: this.alibi };
    this.blocks = params.layers.map((layer, i) => new TransformerBlock(config, layer, i, tables));
    if (embeddingSize === hiddenSize) {
      const input = (x: tf.Tensor3D) => tf.tidy(() => this.beforeHead(x));
      if (tiedHead) this.headInput = input;
      else this.separateHeadInput = input;
    }
  }

  get hiddenSize(): number {
    return this.config.hiddenSize;
  }

  get vocabSize(): number {
    return this.config.vocabSize;
  }

  /** int32 `[batch, text]` to float32 `[batch, text, hiddenSize]`, learned positions included. */
  embed(tokens: tf.Tensor2D, context: LMContext): tf.Tensor3D {
    expectShape('Transformer.embed: tokens', tokens, ['batch', 'text'], 'Pass one row of token ids per text.');
    const { embed, embed_proj } = this.params;
    return tf.tidy(() => {
      const rows = embedding(embed.weight, tokens) as tf.Tensor3D;
      const x = embed_proj ? (linear(rows, embed_proj) as tf.Tensor3D) : rows;
      const learned = this.learnedPositions(tokens.shape[1], context);
      return learned ? tf.add(x, learned) : x;
    });
  }

  /** Final norm and head: float32 `[batch, text, hiddenSize]` to `[batch, text, vocabSize]`, position by position. */
  logits(x: tf.Tensor3D): tf.Tensor3D {
    const want = ['batch', 'text', this.config.hiddenSize];
    expectShape(
      'Transformer.logits: x',
      x,
      want,
      'Pass the output of the last block, or rows of it as [1, n, hiddenSize].',
    );
    const { head, embed } = this.params;
    // An embedding that is frozen as a table has a packed copy as its head.
    const weight = this.packedHead ?? head?.weight ?? (embed.weight as Table);
    return tf.tidy(() => linear(this.beforeHead(x), { weight }) as tf.Tensor3D);
  }

  /**
   * The same model for use without training, with matrices packed by the backend. Frees the variables that it replaces; any
   * further use of this object throws. Except with `float32`, the embedding becomes a bfloat16 table, and a tied head a
   * packed copy.
   */
  async freeze(precision: FrozenPrecision = 'float32'): Promise<Transformer> {
    const { tiedHead } = this.config;
    const { params, head } = await freezeLM(this.params, this.packedHead, precision, { isMatrix, tiedHead });
    this.disposeTables();
    const frozen = new Transformer(this.config, params, head);
    retire(this, 'Transformer');
    return frozen;
  }

  /** Frees all tensors of the model. */
  dispose(): void {
    this.disposeTables();
    this.packedHead?.dispose();
    disposeParams(this.params);
  }

  /** Input of the head. */
  private beforeHead(x: tf.Tensor3D): tf.Tensor3D {
    const { final_norm, head_proj } = this.params;
    const normed = final_norm ? applyNorm(x, final_norm, this.config) : x;
    return head_proj ? (linear(normed, head_proj) as tf.Tensor3D) : normed;
  }

  /** Rows of the position table: float32 `[1|batch, text, hiddenSize]`. */
  private learnedPositions(text: number, context: LMContext): tf.Tensor | undefined {
    const { positions } = this.config;
    const table = this.params.positions?.weight;
    if (positions.kind !== 'learned' || !table) return undefined;
    const { keyMask } = context;
    const past = pastOf(context);
    const longest = keyMask ? tf.max(tf.sum(keyMask, 1)).dataSync()[0]! : past + text;
    const room = positions.rows - positions.offset;
    if (longest > room) {
      throw new Error(
        `Transformer.embed: texts must have at most ${room} tokens, the number of learned positions, got ${longest}. ` +
          'Shorten the prompt or maxNewTokens.',
      );
    }
    if (!keyMask) {
      const rows = tf.slice(table, [past + positions.offset, 0], [text, this.hiddenSize]);
      return tf.reshape(rows, [1, text, this.hiddenSize]);
    }
    return embedding(table, tf.add(tokenPositions(keyMask, past, text), tf.scalar(positions.offset, 'int32')));
  }

  private disposeTables(): void {
    this.rotary?.dispose();
    this.alibi?.dispose();
  }
}
