export { modelTypes, transformerConfig } from './families';
export type { HFConfigJson } from './hf-config';
export {
  causalLMFromState,
  causalLMShapes,
  initCausalLM,
  initFrozenCausalLM,
  loadCausalLM,
  type FolderOptions,
  type PretrainedLM,
} from './load';
export type { Positions } from './positions';
export {
  Transformer,
  TransformerBlock,
  type TransformerConfig,
  type TransformerLayerParams,
  type TransformerParams,
} from './transformer';
export type { ReadOptions } from './weights';
