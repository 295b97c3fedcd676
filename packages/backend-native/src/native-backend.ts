import { OneDnn, type Primitive } from './onednn';
import { PooledBackend, type FastKernel } from './pooled-backend';
import { PrimitiveCache } from './primitive-cache';

/** tfjs backend `native`: oneDNN for what is hot, tfjs' CPU kernels for the rest. */
export class NativeBackend extends PooledBackend {
  readonly dnn = new OneDnn();
  private readonly cache = new PrimitiveCache();

  /** The compiled operation of this key, made on first use. The key must name everything that `make` depends on. */
  primitive(key: string, make: (dnn: OneDnn) => Primitive): Primitive {
    return this.cache.get(key, () => make(this.dnn));
  }
}

export type NativeKernel = FastKernel<NativeBackend>;
