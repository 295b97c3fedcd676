import type { NativeKernel } from '../native-backend';
import type { Layout, OneDnn, Primitive } from '../onednn';
import { sizeOf } from '../pooled-backend';
import type { Compiled } from '../primitive-cache';
import { apply, FEW } from './binary';

/** Product and sum in one pass, or the knowledge that oneDNN would use its slow reference code for these shapes. */
class GatedSumPlan implements Compiled {
  readonly primitive: Primitive | undefined;

  constructor(dnn: OneDnn, data: Layout, gate: Layout) {
    const primitive = dnn.binary('mul', data, gate, data, [{ kind: 'binary', alg: 'add', other: data }]);
    if (primitive.implementation.startsWith('ref')) primitive.destroy();
    else this.primitive = primitive;
  }

  destroy(): void {
    this.primitive?.destroy();
  }
}

/** `{y NHWC, gate [n or 1, 1, 1, c or 1], shortcut NHWC}` -> `[y gate + shortcut]` */
const gatedSum: NativeKernel = ({ y, gate, shortcut }, _attrs, backend) => {
  const out = backend.output(y!.shape);
  const [n, h, w, c] = y!.shape as [number, number, number, number];
  const size = sizeOf(y!.shape);
  const [pictures, , , channels] = gate!.shape as [number, number, number, number];
  const plan =
    size < FEW
      ? undefined
      : backend.compiled(`gated sum ${n} ${h * w} ${c} ${gate!.shape.join()}`, (dnn) => {
          return new GatedSumPlan(dnn, { dims: [n, h * w, c] }, { dims: [pictures, 1, channels] });
        });
  if (plan?.primitive) {
    const [from, by, to, plus] = [y!, gate!, out, shortcut!].map((x) => backend.address(x)) as [
      number,
      number,
      number,
      number,
    ];
    plan.primitive.run(from, by, to, plus);
  } else if (size) {
    apply('mul', y!, gate!, out, backend);
    apply('add', out, shortcut!, out, backend);
  }
  return [out];
};

export const gatedSumKernels: Record<string, NativeKernel> = { FlamingoGatedSum: gatedSum };
