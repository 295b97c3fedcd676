/** Means of 2x2 windows, stride 2, over the cells inside the image. */
export function avgPool2dReference(
  x: Float64Array,
  [batch, height, width, channels]: readonly [number, number, number, number],
): Float64Array {
  const y: number[] = [];
  for (let b = 0; b < batch; b++) {
    for (let oy = 0; oy < height; oy += 2) {
      for (let ox = 0; ox < width; ox += 2) {
        for (let c = 0; c < channels; c++) {
          let [sum, cells] = [0, 0];
          for (let iy = oy; iy < Math.min(oy + 2, height); iy++) {
            for (let ix = ox; ix < Math.min(ox + 2, width); ix++) {
              sum += x[((b * height + iy) * width + ix) * channels + c]!;
              cells++;
            }
          }
          y.push(sum / cells);
        }
      }
    }
  }
  return Float64Array.from(y);
}
