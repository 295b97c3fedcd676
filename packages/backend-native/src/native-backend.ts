import { OneDnn } from './onednn';
import { PooledBackend, type FastKernel } from './pooled-backend';
import { PrimitiveCache, type Compiled } from './primitive-cache';

/** tfjs backend `native`: oneDNN for what is hot, tfjs' CPU kernels for the rest. */
export class NativeBackend extends PooledBackend {
  readonly dnn = new OneDnn();
  private readonly cache = new PrimitiveCache();

  constructor() {
    super('native');
  }

  /** The compiled operation of this key, made on first use. The key must name everything that `make` depends on. */
  compiled<T extends Compiled>(key: string, make: (dnn: OneDnn) => T): T {
    return this.cache.get(key, () => make(this.dnn));
  }
}

export type NativeKernel = FastKernel<NativeBackend>;
