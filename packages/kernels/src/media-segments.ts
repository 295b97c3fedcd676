import { checkValue, rule } from './check-config';

/**
 * Groups text positions by the image they attend to, so that attention runs image by image. Create it once per batch.
 *
 * Positions of one image fill tiles of equal length; the last tile may have unused places. Positions of all images take at
 * most twice as many places plus one tile per image, and the keys of an image are read once per tile.
 */
export class MediaSegments {
  /** Positions per tile. */
  readonly tileLength: number;
  /** For each tile, the image it attends to, as a row of `[batch * media]`. */
  readonly imageOfTile: Int32Array;
  /** For each place of each tile, its row of `[batch * text]`; `batch * text` for an unused place. */
  readonly rowOfPlace: Int32Array;
  /** For each row of `[batch * text]`, its place in `[tiles * tileLength]`; `tiles * tileLength` for a row that sees no image. */
  readonly placeOfRow: Int32Array;

  /**
   * @param mediaIndex row-major `[batch, text]`: the image that each position attends to, counted from 1; 0 = none. An index
   *                   above `media` also sees no image.
   */
  constructor(
    mediaIndex: ArrayLike<number>,
    readonly batch: number,
    readonly text: number,
    readonly media: number,
  ) {
    for (const [name, size] of Object.entries({ batch, text, media })) {
      checkValue('MediaSegments', name, size, rule.integer({ min: 0 }));
    }
    if (mediaIndex.length !== batch * text) {
      throw new Error(
        `MediaSegments: mediaIndex must hold ${batch} rows x ${text} positions = ${batch * text} entries, got ${mediaIndex.length}.`,
      );
    }
    const rows = rowsByImage(mediaIndex, batch, text, media);
    const images = [...rows.keys()].sort((a, b) => a - b);
    const lengths = images.map((image) => rows.get(image)!.length);
    this.tileLength = tileLength(lengths);

    const imageOfTile: number[] = [];
    const rowOfPlace: number[] = [];
    this.placeOfRow = new Int32Array(batch * text).fill(-1);
    for (const image of images) {
      const rowsOfImage = rows.get(image)!;
      for (let start = 0; start < rowsOfImage.length; start += this.tileLength) {
        imageOfTile.push(image);
        for (let i = start; i < start + this.tileLength; i++) {
          const row = rowsOfImage[i];
          if (row !== undefined) this.placeOfRow[row] = rowOfPlace.length;
          rowOfPlace.push(row ?? batch * text);
        }
      }
    }
    this.imageOfTile = Int32Array.from(imageOfTile);
    this.rowOfPlace = Int32Array.from(rowOfPlace);
    for (let i = 0; i < this.placeOfRow.length; i++) {
      if (this.placeOfRow[i]! < 0) this.placeOfRow[i] = rowOfPlace.length;
    }
  }

  /** Number of tiles. */
  get tiles(): number {
    return this.imageOfTile.length;
  }
}

/** Rows of `[batch * text]` by the image they see. */
function rowsByImage(index: ArrayLike<number>, batch: number, text: number, media: number): Map<number, number[]> {
  const rows = new Map<number, number[]>();
  for (let row = 0; row < batch * text; row++) {
    const i = index[row]!;
    if (!Number.isInteger(i) || i < 0) {
      throw new Error(
        `MediaSegments: mediaIndex must hold whole numbers, 0 for no image or an image counted from 1, got ${i} at position ${row}.`,
      );
    }
    if (i === 0 || i > media) continue;
    const image = Math.floor(row / text) * media + i - 1;
    const rowsOfImage = rows.get(image);
    if (rowsOfImage) rowsOfImage.push(row);
    else rows.set(image, [row]);
  }
  return rows;
}

/** The longest segment if that at most doubles the work; otherwise the mean, so that longer segments take several tiles. */
function tileLength(lengths: readonly number[]): number {
  if (lengths.length === 0) return 0;
  const total = lengths.reduce((a, b) => a + b, 0);
  const longest = Math.max(...lengths);
  return longest * lengths.length <= 2 * total ? longest : Math.ceil(total / lengths.length);
}
