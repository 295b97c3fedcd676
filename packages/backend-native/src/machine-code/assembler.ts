/** General registers by their numbers; r8 and up are not needed. */
const REG = { rax: 0, rcx: 1, rdx: 2, rbx: 3, rsi: 6, rdi: 7 } as const;
type Reg = keyof typeof REG;

/** An address: base + index * scale + displacement. */
export interface Memory {
  readonly base: Reg;
  readonly index?: Reg;
  readonly scale?: 1 | 2 | 4;
  readonly displacement: number;
}

/** Vector instructions: opcode map, prefix and opcode as Intel's manual gives them (volume 2, VEX encodings). */
const VECTOR = {
  vaddps: [1, 0, 0x58],
  vcvtdq2ps: [1, 0, 0x5b],
  vextractf128: [3, 1, 0x19],
  vfmadd231ps: [2, 1, 0xb8],
  vhaddps: [1, 3, 0x7c],
  vmovss: [1, 2, 0x11],
  vmulss: [1, 2, 0x59],
  vpmovsxbd: [2, 1, 0x21],
  vpmovzxwd: [2, 1, 0x33],
  vpslld: [1, 1, 0x72],
  vxorps: [1, 0, 0x57],
} as const;

/** Conditional jumps: if equal (or zero), not equal, less. */
const JUMP = { je: 0x84, jne: 0x85, jl: 0x8c } as const;

/** Writes x64 machine code: the few instructions used here. Operands are in Intel's order, vectors are ymm or xmm 0 to 7. */
export class Assembler {
  private readonly bytes: number[] = [];
  private readonly labels = new Map<string, number>();
  private readonly jumps: { readonly at: number; readonly label: string }[] = [];

  /** Instructions given as bytes. */
  raw(...bytes: number[]): void {
    this.bytes.push(...bytes);
  }

  label(name: string): void {
    this.labels.set(name, this.bytes.length);
  }

  jump(condition: keyof typeof JUMP, label: string): void {
    this.raw(0x0f, JUMP[condition]);
    this.jumps.push({ at: this.bytes.length, label });
    this.int32(0);
  }

  /** to = the 64 bits at `from`. */
  load(to: Reg, from: Memory): void {
    this.raw(0x48, 0x8b);
    this.operand(REG[to], from);
  }

  /** Calls the function at an address; overwrites rax. */
  call(address: bigint): void {
    this.raw(0x48, 0xb8, ...new Uint8Array(BigUint64Array.of(address).buffer), 0xff, 0xd0);
  }

  add(to: Reg, value: number): void {
    this.raw(0x48, 0x81, 0xc0 | REG[to]);
    this.int32(value);
  }

  compare(left: Reg, value: number): void {
    this.raw(0x48, 0x81, 0xf8 | REG[left]);
    this.int32(value);
  }

  /**
   * A vector instruction.
   *
   * @param wide  256 bits instead of 128
   * @param reg   the register or number in the instruction's field of that name
   * @param left  the second register, 0 if the instruction has none
   * @param right register or memory
   * @param value the immediate byte, if any
   */
  vector(name: keyof typeof VECTOR, wide: boolean, reg: number, left: number, right: number | Memory, value?: number) {
    const [map, prefix, opcode] = VECTOR[name];
    const hasLeft = !['vcvtdq2ps', 'vextractf128', 'vpmovsxbd', 'vpmovzxwd', 'vmovss'].includes(name);
    const second = hasLeft ? 15 - left : 15;
    this.raw(0xc4, 0xe0 | map, (second << 3) | (wide ? 4 : 0) | prefix, opcode);
    if (typeof right === 'number') this.raw(0xc0 | (reg << 3) | right);
    else this.operand(reg, right);
    if (value !== undefined) this.raw(value);
  }

  /** The code, with its jumps resolved. */
  code(): Uint8Array {
    const code = Uint8Array.from(this.bytes);
    const view = new DataView(code.buffer);
    for (const { at, label } of this.jumps) view.setInt32(at, this.labels.get(label)! - (at + 4), true);
    return code;
  }

  private operand(reg: number, { base, index, scale = 1, displacement }: Memory): void {
    // Always with a scaled index (4: none) and four bytes of displacement: one form for all.
    const scaled = (Math.log2(scale) << 6) | ((index ? REG[index] : 4) << 3) | REG[base];
    this.raw(0x80 | (reg << 3) | 4, scaled);
    this.int32(displacement);
  }

  private int32(value: number): void {
    this.raw(...new Uint8Array(Int32Array.of(value).buffer));
  }
}
