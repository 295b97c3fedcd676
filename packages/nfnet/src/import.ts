import { mapNames, outputsFirst, type FloatTensor, type NameRule } from '@flamingo-ts/checkpoint';
import type { NFNetConfig } from './config';

type State = Readonly<Record<string, FloatTensor>>;

/** Drops the axes after the first `rank` if all of them have size 1. */
const keepAxes =
  (rank: number) =>
  ({ shape, data }: FloatTensor): FloatTensor => ({
    shape: shape.slice(rank).every((n) => n === 1) ? shape.slice(0, rank) : shape,
    data,
  });

const TIMM: readonly NameRule[] = [
  // timm counts the stem from 1, and stores gains as [out, 1, 1, 1] and squeeze-excite as 1x1 convolutions.
  ...[0, 1, 2, 3].flatMap((i): NameRule[] => [
    { from: new RegExp(`^stem\\.conv${i + 1}\\.gain$`), to: `stem.${i}.gain`, convert: keepAxes(1) },
    { from: new RegExp(`^stem\\.conv${i + 1}\\.`), to: `stem.${i}.` },
  ]),
  { from: /\.downsample\.conv\.gain$/, to: '.shortcut.gain', convert: keepAxes(1) },
  { from: /\.downsample\.conv\./, to: '.shortcut.' },
  { from: /\.attn_last\.fc1\.weight$/, to: '.squeezeExcite.reduce.weight', convert: keepAxes(2) },
  { from: /\.attn_last\.fc2\.weight$/, to: '.squeezeExcite.expand.weight', convert: keepAxes(2) },
  { from: /\.attn_last\.fc1\./, to: '.squeezeExcite.reduce.' },
  { from: /\.attn_last\.fc2\./, to: '.squeezeExcite.expand.' },
  { from: /\.skipinit_gain$/, to: '.skipGain' },
  { from: /^final_conv\.gain$/, to: 'finalConv.gain', convert: keepAxes(1) },
  { from: /^final_conv\./, to: 'finalConv.' },
  { from: /^head\.fc\./, to: 'classifier.' },
  { from: /\.gain$/, to: '.gain', convert: keepAxes(1) },
];

/** Converts a timm state dict (`dm_nfnet_f0` to `f6`) to this package's names and shapes, for `NFNet.fromState`. */
export function importTimm(state: State): Record<string, FloatTensor> {
  return mapNames(state, TIMM);
}

/** A Haiku module's weight `w` (inputs first) and its vectors. */
const haikuModule = (from: string, to: string): NameRule[] => [
  { from: new RegExp(`${from}\\.w$`), to: `${to}.weight`, convert: outputsFirst },
  { from: new RegExp(`${from}\\.b(?:ias)?$`), to: `${to}.bias` },
  { from: new RegExp(`${from}\\.gain$`), to: `${to}.gain` },
];

const HAIKU: readonly NameRule[] = [
  ...haikuModule('^stem_conv(\\d+)', 'stem.$1'),
  ...haikuModule('\\.conv0', '.conv1'),
  ...haikuModule('\\.conv1', '.conv2'),
  ...haikuModule('\\.conv1b', '.conv2b'),
  ...haikuModule('\\.conv2', '.conv3'),
  ...haikuModule('\\.conv_shortcut', '.shortcut'),
  ...haikuModule('\\.squeeze_excite\\.linear', '.squeezeExcite.reduce'),
  ...haikuModule('\\.squeeze_excite\\.linear_1', '.squeezeExcite.expand'),
  { from: /\.skip_gain$/, to: '.skipGain' },
  ...haikuModule('^final_conv', 'finalConv'),
  ...haikuModule('^linear', 'classifier'),
];

/**
 * Converts DeepMind's parameters to this package's names and layouts, for `NFNet.fromState`. Their names are `module/name`,
 * as in `NFNet/~/nf_block_3/~/conv1b/w`, with slashes or dots. They number blocks through all stages, so the depths are
 * required.
 */
export function importHaiku(state: State, { depths }: Pick<NFNetConfig, 'depths'>): Record<string, FloatTensor> {
  const dotted = Object.entries(state).map(([name, tensor]) => {
    const path = name.replace(/\/~\/|\//g, '.').replace(/^NFNet\./, '');
    const block = (_: string, index = '0') => `stages.${stageAndBlock(Number(index), depths)}.`;
    return [path.replace(/^nf_block(?:_(\d+))?\./, block), tensor] as const;
  });
  return mapNames(Object.fromEntries(dotted), HAIKU);
}

function stageAndBlock(index: number, depths: readonly number[]): string {
  let stage = 0;
  while (stage < depths.length && index >= depths[stage]!) index -= depths[stage++]!;
  return `${stage}.${index}`;
}
