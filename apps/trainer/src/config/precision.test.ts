import { startsNative } from '@flamingo-ts/testing';
import { expect, it } from 'vitest';
import { usePrecision } from './precision';

const isa = (await startsNative()) ? (await import('@flamingo-ts/backend-native')).nativeLibrary().cpuIsa : undefined;
const multiplies = isa !== undefined && /bf16|amx|fp16|vnni_2/.test(isa);

it('supports float32 on every backend, and bfloat16 only on native', async () => {
  await usePrecision('float32', 'wasm');
  await expect(usePrecision('bfloat16', 'wasm')).rejects.toThrow(
    /precision bfloat16 requires backend native, got wasm\. Remove precision, or .*flamingo doctor/,
  );
});

it.runIf(isa !== undefined && !multiplies)('rejects bfloat16 on a processor that cannot multiply it', async () => {
  await usePrecision('float32', 'native');
  await expect(usePrecision('bfloat16', 'native')).rejects.toThrow(
    /precision bfloat16 is not available on this machine\. .*requires a processor with bfloat16 instructions.* Use float32/,
  );
});

it.runIf(multiplies)('sets and resets the precision of the native backend', async () => {
  const backend = (await import('@tensorflow/tfjs-core')).backend() as unknown as { readonly precision: string };
  await usePrecision('bfloat16', 'native');
  expect(backend.precision).toBe('bfloat16');
  await usePrecision('float32', 'native');
  expect(backend.precision).toBe('float32');
});
