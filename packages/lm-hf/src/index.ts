export { modelTypes } from './families';
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
  type TransformerBlock,
  type TransformerConfig,
  type TransformerLayerParams,
  type TransformerParams,
} from './transformer';
export type { ReadOptions } from './weights';
