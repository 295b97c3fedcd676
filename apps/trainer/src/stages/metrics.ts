import { existsSync, readFileSync } from 'node:fs';

/** What a check on the validation split measured. */
export interface ValidationMetrics {
  readonly loss: number;
  /** Recall at 1: share of the images whose own text ranks first. */
  readonly retrieval?: number;
  /** What choosing a text at random would score. */
  readonly chance?: number;
}

/** Describes a check in a few words. */
export function describeCheck({ loss, retrieval, chance }: ValidationMetrics): string {
  const found = retrieval === undefined ? '' : `, retrieval ${retrieval.toFixed(3)} (chance ${chance!.toFixed(3)})`;
  return `validation loss ${loss.toFixed(3)}${found}`;
}

/**
 * Recall at 1 of the texts of images. An equal text of another image is right too.
 *
 * @param best  for each image, the index of the text that ranks first
 * @param texts the text of each image
 */
export function recall(best: readonly number[], texts: readonly string[]): { retrieval: number; chance: number } {
  const share = (count: (text: string, i: number) => number) =>
    texts.reduce((sum, text, i) => sum + count(text, i), 0) / texts.length;
  return {
    retrieval: share((text, i) => (texts[best[i]!] === text ? 1 : 0)),
    chance: share((text) => texts.filter((other) => other === text).length / texts.length),
  };
}

/** One line of metrics.jsonl. */
export interface StepMetrics {
  readonly step: number;
  readonly loss: number;
  readonly losses: Readonly<Record<string, number>>;
  readonly learningRate: number;
  readonly gradientNorm: number;
  /** Seconds since the stage began, over all its runs. */
  readonly seconds: number;
  /** Part of `seconds` spent waiting for data. */
  readonly waited: number;
  /** `waited` divided by `seconds`. */
  readonly waitedShare: number;
  readonly figures?: Readonly<Record<string, number>>;
  /** After the update of this step, at every check. */
  readonly validation?: ValidationMetrics;
}

/**
 * Reads the lines of a metrics file. Skips a last line that a kill has truncated.
 *
 * @throws Error naming any other line that is not a step's metrics
 */
export function readMetrics(file: string): StepMetrics[] {
  if (!existsSync(file)) return [];
  const lines = readFileSync(file, 'utf8').split('\n');
  // Every complete line ends with a newline, so text after the last newline was truncated.
  const truncated = lines.length - 1;
  return lines.flatMap((line, i) => {
    if (line === '') return [];
    const metrics = parseLine(line);
    if (metrics) return [metrics];
    if (i === truncated) return [];
    throw new Error(
      `${file}, line ${i + 1}: expected the metrics of a step, got ${JSON.stringify(line.slice(0, 60))}. ` +
        'Correct or remove that line.',
    );
  });
}

function parseLine(line: string): StepMetrics | undefined {
  try {
    const metrics = JSON.parse(line) as StepMetrics | null;
    return Number.isInteger(metrics?.step) && typeof metrics?.loss === 'number' ? metrics : undefined;
  } catch {
    return undefined;
  }
}
