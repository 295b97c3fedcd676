import type { Family } from './family';
import { gpt2 } from './families/gpt2';
import { gptNeoX } from './families/gpt-neox';
import { llama } from './families/llama';
import { mosaicGPT, mpt } from './families/mpt';
import { opt } from './families/opt';
import { HFConfig, type HFConfigJson } from './hf-config';
import { checkTransformerConfig, type TransformerConfig } from './transformer';

const FAMILIES: Readonly<Record<string, Family>> = {
  gpt2,
  opt,
  gpt_neox: gptNeoX,
  llama,
  mpt,
  mosaic_gpt: mosaicGPT,
};

/** Supported values of `model_type` in a config.json. */
export const modelTypes: readonly string[] = Object.keys(FAMILIES);

/** The family of a config.json. @param what the file, for error messages */
export function familyOf(json: HFConfigJson, what: string): Family {
  const type = json['model_type'];
  if (typeof type === 'string' && Object.hasOwn(FAMILIES, type)) return FAMILIES[type]!;
  throw new Error(
    `${what}: model_type must be one of ${modelTypes.join(', ')}, got ${JSON.stringify(type) ?? 'nothing'}. ` +
      'Any other language model can be used as a CausalLM of your own: embed, blocks and logits, checked by ' +
      'checkCausalLM of @flamingo-ts/lm-core. See docs/bring-your-own-llm.md of the repository for a complete one.',
  );
}

/** Reads and checks a config.json, and fills in defaults. @param what the file, for error messages */
export function transformerConfig(json: HFConfigJson, what = 'config.json'): TransformerConfig {
  const config = familyOf(json, what).config(new HFConfig(json, what));
  const quantized = json['quantization_config'] as { readonly quant_method?: unknown } | null | undefined;
  if (quantized) {
    throw new Error(
      `${what}: the weights must be float32, float16 or bfloat16, got quantized ones ` +
        `(quantization_config: ${JSON.stringify(quantized.quant_method) ?? 'no quant_method'}). ` +
        "Use the original model; freeze: 'int8' reduces its memory to a quarter.",
    );
  }
  checkTransformerConfig(config, what);
  return config;
}
