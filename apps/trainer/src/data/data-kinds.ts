import { z } from 'zod';
import type { Config } from '../config/config';
import { datasetNames, type TrainingData } from './training-data';

/** The `data` section of a configuration. Its kind determines the other keys. */
export interface DataConfig {
  readonly kind: string;
  readonly [key: string]: unknown;
}

type Color = readonly [red: number, green: number, blue: number];

/** A kind of training data that the `data` section of a configuration can select. */
export interface DataKind<T extends DataConfig = DataConfig> {
  /** Schema of the section. */
  readonly schema: z.ZodObject<{ kind: z.ZodLiteral<string> }> & z.ZodType<T>;
  /** Keys of the section that hold paths. They are relative to the configuration file. */
  readonly paths: readonly string[];
  /** Side of the images in pixels, if the data has a fixed size. */
  readonly imageSize?: number;
  /** Color of the borders that make images square, 0 to 1. */
  readonly padding: Color;
  /** Whether the images are drawn, not read: they vary by themselves. */
  readonly isGenerated?: boolean;
  /** Opens the data of a valid configuration. */
  open(data: T, config: Config): Promise<TrainingData>;
}

/** Middle gray, which the vision encoder sees as 0. */
export const GRAY_PADDING: Color = [0.5, 0.5, 0.5];

const path = z.string().min(1);

const folder: DataKind<{ kind: 'folder'; path: string }> = {
  schema: z.strictObject({ kind: z.literal('folder'), path }),
  paths: ['path'],
  padding: GRAY_PADDING,
  async open({ path }, config) {
    const { OwnData } = await import('./own-data');
    return OwnData.openFolder(path, optionsOf(config));
  },
};

const shardsSchema = z.strictObject({
  kind: z.literal('shards'),
  /** Dataset that the language model learns from, instead of the texts of the other datasets. */
  text: path.optional(),
  pages: path.optional(),
  pairs: path.optional(),
  descriptions: path.optional(),
  clips: path.optional(),
  /** Few-shot questions, as in the `eval.jsonl` of a folder. */
  eval: path.optional(),
});
export type ShardsConfig = z.infer<typeof shardsSchema>;

const shards: DataKind<ShardsConfig> = {
  schema: shardsSchema,
  paths: ['text', ...datasetNames, 'eval'],
  padding: GRAY_PADDING,
  async open(data, config) {
    const { OwnData } = await import('./own-data');
    return OwnData.openShards(data, optionsOf(config));
  },
};

const optionsOf = ({ vision, flamingo, augmentation, validation, seed }: Config) => ({
  // A configuration for `pretrain-lm` may have no vision encoder, because only the text of its data is used.
  imageSize: (vision as Partial<Config['vision']>).model?.imageSize ?? 1,
  framesPerClip: flamingo.framesPerClip,
  augmentation,
  validation,
  seed,
});

const kinds = new Map<string, DataKind>();

/** Makes a kind of data available to configurations. */
export function registerDataKind<T extends DataConfig>(kind: DataKind<T>): void {
  kinds.set(kind.schema.shape.kind.value, kind as unknown as DataKind);
}

registerDataKind(folder);
registerDataKind(shards);

/** Schema of the `data` section, over all registered kinds. */
export const dataSchema: z.ZodType<DataConfig> = z.lazy(() => {
  const schemas = Array.from(kinds.values(), ({ schema }) => schema);
  return z.discriminatedUnion('kind', schemas as [(typeof schemas)[0]]) as unknown as z.ZodType<DataConfig>;
});

/** The kind that a valid `data` section selects. */
export function dataKindOf({ kind }: DataConfig): DataKind {
  return kinds.get(kind)!;
}

/** Opens the training data of a configuration. */
export function openData(config: Config): Promise<TrainingData> {
  return dataKindOf(config.data).open(config.data, config);
}
