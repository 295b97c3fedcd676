import type { BackendName } from '@flamingo-ts/kernels';
import type { Config } from './config';

/**
 * Makes the backend that was chosen multiply in the precision that a configuration asks for.
 *
 * @throws Error where that backend or this processor has no bfloat16
 */
export async function usePrecision(precision: Config['precision'], backend: BackendName): Promise<void> {
  if (backend !== 'native') {
    if (precision === 'float32') return;
    throw new Error(
      `Config: precision bfloat16 needs the backend native, got ${backend}. ` +
        'Leave precision out, or see with flamingo doctor how to get native.',
    );
  }
  const { setNativePrecision } = await import('@flamingo-ts/backend-native');
  try {
    setNativePrecision(precision);
  } catch (error) {
    throw new Error(`Config: precision ${precision} cannot be had here. ${(error as Error).message}`, { cause: error });
  }
}
