import { startsNative } from '@flamingo-ts/testing';
import { expect, it } from 'vitest';
import { usePrecision } from './precision';

const isa = (await startsNative()) ? (await import('@flamingo-ts/backend-native')).nativeLibrary().cpuIsa : undefined;
const multiplies = isa !== undefined && /bf16|amx|fp16|vnni_2/.test(isa);

it('is float32 everywhere, and bfloat16 on no other backend than native', async () => {
  await usePrecision('float32', 'wasm');
  await expect(usePrecision('bfloat16', 'wasm')).rejects.toThrow(
    /precision bfloat16 requires backend native, got wasm\. Remove precision, or .*flamingo doctor/,
  );
});

it.runIf(isa !== undefined && !multiplies)('names the processor that cannot multiply bfloat16', async () => {
  await usePrecision('float32', 'native');
  await expect(usePrecision('bfloat16', 'native')).rejects.toThrow(
    /precision bfloat16 is not available on this machine\. .*needs a processor that multiplies it.* Use float32/,
  );
});

it.runIf(multiplies)('is taken by the native backend, and given back', async () => {
  const backend = (await import('@tensorflow/tfjs-core')).backend() as unknown as { readonly precision: string };
  await usePrecision('bfloat16', 'native');
  expect(backend.precision).toBe('bfloat16');
  await usePrecision('float32', 'native');
  expect(backend.precision).toBe('float32');
});
