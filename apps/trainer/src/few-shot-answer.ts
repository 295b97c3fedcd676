import { resolve } from 'node:path';
import { ImageDecoder } from '@flamingo-ts/data-mixtures';
import { fewShotPrompt, paperTemplates, rankCandidates } from '@flamingo-ts/evaluation';
import type { Config } from './config';
import { answering } from './evaluate';
import { openJoint } from './recipe';
import type { Frames, MediaKey, PictureSource } from './training-data';

/** An answer to a prompt of pictures. */
export interface FewShotAnswer {
  readonly answer: string;
  /** Probability of each candidate among them, where candidates were given. */
  readonly probabilities?: Readonly<Record<string, number>>;
}

/** What is asked on the command line. */
export interface FewShotQuestion {
  readonly image: string;
  /** `FILE=ANSWER` each */
  readonly example: readonly string[];
  readonly candidates?: readonly string[];
}

/** Pictures from anywhere: keys are paths. */
class PictureFiles implements PictureSource {
  private readonly decoder: ImageDecoder;

  constructor(readonly imageSize: number) {
    this.decoder = new ImageDecoder({ size: imageSize, fit: 'pad', mean: [1, 1, 1], std: [1, 1, 1] });
  }

  frames(keys: readonly MediaKey[]): Promise<(Frames | undefined)[]> {
    return Promise.all(keys.map((key) => this.decoder.decodeBytes(String(key))));
  }

  close(): Promise<void> {
    return this.decoder.close();
  }
}

/** Loads the trained model of a configuration and asks it about a picture. */
export async function answerPrompt(config: Config, question: FewShotQuestion): Promise<FewShotAnswer> {
  const pictures = new PictureFiles(config.vision.model.imageSize);
  try {
    const { scorer, generator } = answering(await openJoint(config, pictures));
    const template = paperTemplates.caption;
    const examples = question.example.map((e) => {
      const at = e.lastIndexOf('=');
      return { image: resolve(e.slice(0, at)) as MediaKey, answer: e.slice(at + 1) };
    });
    const prompt = fewShotPrompt(template, examples, { image: resolve(question.image) as MediaKey });
    const { candidates } = question;
    if (!candidates) return { answer: (await generator!([prompt]))[0]! };
    const [scores] = await scorer!(
      [prompt],
      candidates.map((c) => template.answer(c)),
    );
    const { order, probabilities } = rankCandidates(scores!);
    return {
      answer: candidates[order[0]!]!,
      probabilities: Object.fromEntries(candidates.map((c, i) => [c, probabilities[i]!])),
    };
  } finally {
    await pictures.close();
  }
}
