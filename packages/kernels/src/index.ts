export { useBackend, type BackendChoice, type BackendName, type RejectedBackend } from './backend';
export { fusedOp, fusedOpNames, type FusedOpDefinition, type OpInputs, type Taped } from './fused-op';
export { checkConfig, checkValue, rule, type ConfigRule, type ConfigRules } from './check-config';
export { expectShape } from './shape';
export { FrozenFilter, type FilterPackingBackend, type FilterPrecision, type PackedFilter } from './frozen-filter';
export {
  FROZEN_PRECISIONS,
  FrozenMatrix,
  type FrozenPrecision,
  type FrozenValues,
  type PackedMatrix,
  type PackingBackend,
} from './frozen-matrix';
export { FrozenTable } from './frozen-table';
export { widened } from './bfloat16';
export {
  countParams,
  disposeParams,
  expectParams,
  expectState,
  freezeParams,
  loadState,
  namedParams,
  retireParams,
  stateOf,
  variables,
  type LoadOptions,
  type Parameter,
  type ParamTree,
  type StateTensor,
} from './params';
export {
  constantSpec,
  freshParams,
  layerNormSpec,
  linearSpec,
  loadParams,
  normalSpec,
  paramsFrom,
  ParamSpec,
  shapesOf,
  variableOf,
  type LoadParamsOptions,
  type Packing,
  type ParamsOf,
  type SpecTree,
} from './param-spec';
export { Random } from '@flamingo-ts/random';
export { constantVariable, expectRandom, normalVariable } from './random';
export { activation, ACTIVATIONS, type Activation } from './activation';
export { adamWStep, type AdamWOptions } from './adamw-step';
export { attention, type AttentionOptions } from './attention';
export { avgPool2d } from './avg-pool2d';
export {
  conv2d,
  conv2dSequence,
  type Conv2dLayer,
  type Conv2dOptions,
  type Conv2dParams,
  type Padding,
} from './conv2d';
export { crossEntropy, type CrossEntropyOptions } from './cross-entropy';
export { embedding, gatherRows } from './gather-rows';
export { valueAndGrads } from './gradients';
export { globalNorm } from './global-norm';
export { layerNorm, type LayerNormParams } from './layer-norm';
export { innerLinear, linear, linearAdd, type LinearParams } from './linear';
export { mlp, type MLPParams } from './mlp';
export { mediaCrossAttention, type MediaCrossAttentionOptions } from './media-cross-attention';
export { MediaSegments } from './media-segments';
export { relativeScores } from './relative-scores';
export { retire } from './retire';
export { rmsNorm, type RMSNormParams } from './rms-norm';
export { rotary } from './rotary';
export {
  standardizeWeight,
  weightStandardizedConv2d,
  type StandardizeOptions,
  type WeightStandardizedConv2dOptions,
  type WeightStandardizedConv2dParams,
} from './standardize-weight';
export { borrowValues, type BorrowedValues, type WeightSource } from './weight-source';
export { writeRows } from './write-rows';
