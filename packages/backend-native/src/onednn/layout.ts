/** Numbers of oneDNN's data types. */
export const BF16 = 2;
export const F32 = 3;
export const S8 = 5;
export const U8 = 6;

/** A memory descriptor: a struct of its own in version 2, a pointer in version 3; passed as a pointer either way. */
export type MemoryDesc = Buffer | bigint;

/** Shape, and strides in elements or `any` for a layout of oneDNN's choice. */
export interface Layout {
  readonly dims: readonly number[];
  readonly strides?: readonly number[] | 'any';
  readonly type?: number;
  /** A layout that a primitive chose for data of these dimensions and this type; it replaces the strides. */
  readonly chosen?: MemoryDesc;
}

/** Row-major strides of a shape, in elements. */
export function rowMajor(dims: readonly number[]): number[] {
  const strides = new Array<number>(dims.length);
  let step = 1;
  for (let i = dims.length - 1; i >= 0; i--) {
    strides[i] = step;
    step *= dims[i]!;
  }
  return strides;
}
