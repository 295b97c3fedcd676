/** One head of one token: rotates channels j and j + n, as a point in the plane, by the j-th angle. */
export function rotaryReference(head: ArrayLike<number>, angles: readonly number[]): number[] {
  const n = angles.length;
  return Array.from(head, (value, i) => {
    if (i >= 2 * n) return value;
    const angle = angles[i % n]!;
    return i < n
      ? value * Math.cos(angle) - head[i + n]! * Math.sin(angle)
      : value * Math.cos(angle) + head[i - n]! * Math.sin(angle);
  });
}
