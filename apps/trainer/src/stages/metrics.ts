import { existsSync, readFileSync } from 'node:fs';

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
