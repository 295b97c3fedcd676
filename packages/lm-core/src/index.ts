export type { CausalLM, LMBlock, LMContext } from './causal-lm';
export { KVCache, type LayerCache } from './kv-cache';
