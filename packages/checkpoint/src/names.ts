import type { FloatTensor } from './files';

/**
 * How to rename the tensors of a checkpoint; `to` and the names in `split` may use `$1`, `$2`, ... of `from`.
 *
 * - `{ from, to }` renames, and converts the values if `convert` is given (a transposition, a reshape);
 * - `{ from, to, part: [i, n] }` joins n tensors into one, in order, along their first axis;
 * - `{ from, split }` splits one tensor into equal parts along its first axis;
 * - `{ from, drop: true }` drops it.
 */
export type NameRule =
  | { readonly from: RegExp; readonly to: string; readonly convert?: (tensor: FloatTensor) => FloatTensor }
  | { readonly from: RegExp; readonly to: string; readonly part: readonly [index: number, count: number] }
  | { readonly from: RegExp; readonly split: readonly string[] }
  | { readonly from: RegExp; readonly drop: true };

/** Renames a state by the first rule that matches each name; names that no rule matches do not change. */
export function mapNames(
  state: Readonly<Record<string, FloatTensor>>,
  rules: readonly NameRule[],
): Record<string, FloatTensor> {
  const mapped = new Map<string, FloatTensor>();
  const source = new Map<string, string>();
  const collected = new Map<string, (FloatTensor | undefined)[]>();
  const put = (to: string, tensor: FloatTensor, from: string): void => {
    if (mapped.has(to)) {
      throw new Error(
        `mapNames: ${source.get(to)} and ${from} both become ${to}. Change the rules so that the new names differ.`,
      );
    }
    mapped.set(to, tensor);
    source.set(to, from);
  };
  for (const [name, tensor] of Object.entries(state)) {
    const rule = rules.find(({ from }) => name.search(from) >= 0);
    if (!rule) put(name, tensor, name);
    else if ('split' in rule) {
      const parts = splitRows(name, tensor, rule.split.length);
      rule.split.forEach((to, i) => put(name.replace(rule.from, to), parts[i]!, name));
    } else if ('part' in rule) {
      const to = name.replace(rule.from, rule.to);
      const parts = collected.get(to) ?? Array.from({ length: rule.part[1] }, () => undefined);
      parts[rule.part[0]] = tensor;
      collected.set(to, parts);
    } else if ('to' in rule) put(name.replace(rule.from, rule.to), rule.convert?.(tensor) ?? tensor, name);
  }
  for (const [to, parts] of collected) put(to, joinRows(to, parts), `the parts of ${to}`);
  return Object.fromEntries(mapped);
}

function splitRows(name: string, { shape, data }: FloatTensor, count: number): FloatTensor[] {
  const [rows = 1, ...rest] = shape;
  if (rows % count !== 0) {
    throw new Error(
      `mapNames: ${name} has ${rows} rows, which cannot be split into ${count} equal parts. Check the rule.`,
    );
  }
  const size = data.length / count;
  return Array.from({ length: count }, (_, i) => ({
    shape: [rows / count, ...rest],
    data: data.slice(i * size, (i + 1) * size),
  }));
}

function joinRows(name: string, parts: readonly (FloatTensor | undefined)[]): FloatTensor {
  const absent = parts.findIndex((part) => !part);
  if (absent >= 0) {
    throw new Error(
      `mapNames: part ${absent} of the ${parts.length} of ${name} is missing. Check the checkpoint's names.`,
    );
  }
  const tensors = parts as readonly FloatTensor[];
  const rest = tensors[0]!.shape.slice(1);
  const other = tensors.find(({ shape }) => shape.slice(1).join() !== rest.join());
  if (other) {
    throw new Error(
      `mapNames: the parts of ${name} must agree in all axes but the first: [${tensors[0]!.shape.join(', ')}] and ` +
        `[${other.shape.join(', ')}] do not.`,
    );
  }
  const data = new Float32Array(tensors.reduce((n, t) => n + t.data.length, 0));
  let at = 0;
  for (const t of tensors) {
    data.set(t.data, at);
    at += t.data.length;
  }
  return { shape: [tensors.reduce((n, t) => n + t.shape[0]!, 0), ...rest], data };
}

/** A conversion for rules: kernels `[h, w, in, out] -> [out, in, h, w]`, matrices `[in, out] -> [out, in]`. */
export function outputsFirst({ shape, data }: FloatTensor): FloatTensor {
  const [inputs = 1, outputs = 1] = shape.slice(-2);
  const cells = shape.slice(0, -2);
  const area = cells.reduce((a, b) => a * b, 1);
  const transposed = new Float32Array(data.length);
  for (let i = 0; i < transposed.length; i++) {
    const cell = i % area;
    const input = Math.floor(i / area) % inputs;
    const output = Math.floor(i / (area * inputs));
    transposed[i] = data[(cell * inputs + input) * outputs + output]!;
  }
  return { shape: [outputs, inputs, ...cells], data: transposed };
}
