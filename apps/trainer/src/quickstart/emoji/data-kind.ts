import { z } from 'zod';
import { startProgress, type Progress } from '../../cli/progress';
import type { DataKind } from '../../data/data-kinds';
import { SIDE, STYLES } from './concepts';

const schema = z.strictObject({
  kind: z.literal('emoji'),
  /** A style that training never sees. */
  unseenStyle: z.enum(STYLES).optional(),
  /** Use only this many concepts. */
  maxConcepts: z.number().int().positive().optional(),
});

/** Data of the quickstart: images drawn from emoji artwork. */
export const emojiDataKind: DataKind<z.infer<typeof schema>> = {
  schema,
  paths: [],
  imageSize: SIDE,
  // White, as the background of most emoji images.
  padding: [1, 1, 1],
  isGenerated: true,
  async open({ unseenStyle, maxConcepts }, { seed, flamingo }) {
    const { EmojiData } = await import('./data');
    const { EmojiWorld } = await import('./world');
    let progress: Progress | undefined;
    try {
      const world = await EmojiWorld.create({
        seed,
        unseenStyle,
        maxConcepts,
        onDrawn(drawn, all) {
          progress ??= startProgress('data', all, 'images');
          progress.update(drawn);
        },
      });
      progress?.stop(`${world.concepts.length} concepts, ${world.imageCount} images drawn`);
      return new EmojiData(world, flamingo.framesPerClip);
    } finally {
      progress?.stop();
    }
  },
};
