import { resolve } from 'node:path';
import { ImageDecoder } from '@flamingo-ts/data-mixtures';
import { fewShotPrompt, paperTemplates, rankCandidates } from '@flamingo-ts/evaluation';
import type { Config } from '../config/config';
import { answering } from './evaluate';
import { dataKindOf } from '../data/data-kinds';
import { openJoint } from '../stages/recipe';
import type { Frames, MediaKey, ImageSource } from '../data/training-data';

/** An answer to a few-shot prompt. */
export interface FewShotAnswer {
  readonly answer: string;
  /** Probability of each candidate, if candidates are given. */
  readonly probabilities?: Readonly<Record<string, number>>;
}

/** A question from the command line. */
export interface FewShotQuestion {
  readonly image: string;
  /** Shots, each as `FILE=ANSWER`. */
  readonly example?: readonly string[] | undefined;
  readonly candidates?: readonly string[];
}

/** Loads the trained model of a configuration and asks it about an image. Image paths are relative to the working directory. */
export async function answerPrompt(config: Config, question: FewShotQuestion): Promise<FewShotAnswer> {
  const template = paperTemplates.caption;
  const examples = (question.example ?? []).map((e) => {
    const at = e.lastIndexOf('=');
    return { image: resolve(e.slice(0, at)), answer: e.slice(at + 1) };
  });
  const query = resolve(question.image);
  const images = await readImages(config, [...examples.map((e) => e.image), query]);
  const { scorer, generator } = answering(await openJoint(config, images));
  const prompt = fewShotPrompt<MediaKey>(template, examples, { image: query });
  const { candidates } = question;
  if (!candidates) return { answer: (await generator([prompt]))[0]! };
  const [scores] = await scorer(
    [prompt],
    candidates.map((c) => template.answer(c)),
  );
  const { order, probabilities } = rankCandidates(scores!);
  return {
    answer: candidates[order[0]!]!,
    probabilities: Object.fromEntries(candidates.map((c, i) => [c, probabilities[i]!])),
  };
}

/** Images from files, preprocessed as in training. Their keys are the paths. */
async function readImages(config: Config, paths: readonly string[]): Promise<ImageSource> {
  const { imageSize } = config.vision.model;
  const { padding } = dataKindOf(config.data);
  const decoder = new ImageDecoder({ size: imageSize, fit: 'pad', mean: padding, std: [1, 1, 1] });
  const read = new Map<MediaKey, Frames>();
  try {
    for (const path of paths) {
      const pixels = await decoder.decodeBytes(path);
      if (!pixels) {
        throw new Error(
          `generate: ${path} cannot be read (${decoder.report().failures[0]!.reason}), expected an image. ` +
            'Pass the path of a PNG, JPEG, WebP, AVIF, GIF, TIFF or SVG file.',
        );
      }
      read.set(path, pixels);
    }
  } finally {
    await decoder.close();
  }
  return { imageSize, frames: (keys) => Promise.resolve(keys.map((key) => read.get(key))) };
}
