import type { BackendName } from '@flamingo-ts/kernels';
import type { Config } from './config';

/**
 * Sets the precision in which the selected backend multiplies.
 *
 * @throws Error if that backend or this processor does not support bfloat16
 */
export async function usePrecision(precision: Config['precision'], backend: BackendName): Promise<void> {
  if (backend !== 'native') {
    if (precision === 'float32') return;
    throw new Error(
      `Config: precision bfloat16 requires backend native, got ${backend}. ` +
        'Remove precision, or run flamingo doctor to see how to install native.',
    );
  }
  const { setNativePrecision } = await import('@flamingo-ts/backend-native');
  try {
    setNativePrecision(precision);
  } catch (error) {
    throw new Error(`Config: precision ${precision} is not available on this machine. ${(error as Error).message}`, {
      cause: error,
    });
  }
}
