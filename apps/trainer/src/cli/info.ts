import { existsSync, readdirSync, readFileSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { CheckpointFolder } from '@flamingo-ts/checkpoint';
import { readMetrics } from '../stages/metrics';
import { CONFIG_FILE, MODEL_FILE, STAGES, SUMMARY_FILE, type StageName, type StageSummary } from '../stages/recipe';
import { CHECKPOINTS, METRICS_FILE } from '../stages/stage';

/** What one stage of a run folder holds. */
export interface StageInfo {
  readonly stage: StageName;
  readonly isFinished: boolean;
  /** Steps done, as the metrics say. */
  readonly steps: number;
  /** Loss of the first and of the last step. */
  readonly losses?: readonly [number, number];
  /** Trained scalars; known once the stage is finished. */
  readonly trained?: number;
  /** The file with the configuration that the stage ran with. */
  readonly config?: string;
  /** Bytes of all files of the stage. */
  readonly bytes: number;
  /** Checkpoints, newest first; damaged ones with what is wrong. */
  readonly checkpoints: readonly { readonly name: string; readonly damage?: string }[];
  /** What is wrong with the metrics, if they cannot be read. */
  readonly metricsDamage?: string;
}

/**
 * Looks at every stage in a run folder. Each checkpoint is read and compared with its hashes.
 *
 * @throws Error if the folder holds no stage
 */
export async function inspectRun(folder: string): Promise<StageInfo[]> {
  const stages = (Object.keys(STAGES) as StageName[]).filter((stage) => existsSync(join(folder, stage)));
  if (stages.length === 0) {
    throw new Error(
      `info: ${folder} holds none of ${Object.keys(STAGES).join(', ')}. Give the out folder of a configuration.`,
    );
  }
  return Promise.all(stages.map((stage) => inspectStage(join(folder, stage), stage)));
}

async function inspectStage(folder: string, stage: StageName): Promise<StageInfo> {
  const [summaryFile, config] = [join(folder, SUMMARY_FILE), join(folder, CONFIG_FILE)];
  const isFinished = existsSync(summaryFile) && existsSync(join(folder, MODEL_FILE));
  const read = metricsOf(join(folder, METRICS_FILE));
  const first = read.metrics[0];
  return {
    stage,
    isFinished,
    steps: read.metrics.length,
    ...(first && { losses: [first.loss, read.metrics.at(-1)!.loss] as const }),
    ...(isFinished && { trained: (JSON.parse(readFileSync(summaryFile, 'utf8')) as StageSummary).trained }),
    ...(existsSync(config) && { config }),
    bytes: bytesOf(folder),
    checkpoints: await new CheckpointFolder(join(folder, CHECKPOINTS)).check(),
    ...(read.damage && { metricsDamage: read.damage }),
  };
}

function metricsOf(file: string) {
  try {
    return { metrics: readMetrics(file) };
  } catch (error) {
    return { metrics: [], damage: (error as Error).message };
  }
}

function bytesOf(folder: string): number {
  return readdirSync(folder, { withFileTypes: true, recursive: true })
    .filter((entry) => entry.isFile())
    .reduce((sum, entry) => sum + statSync(join(entry.parentPath, entry.name)).size, 0);
}

/** The same for people. */
export function formatRun(stages: readonly StageInfo[]): string {
  return stages
    .map((s) => {
      const checkpoints = s.checkpoints.map(({ name, damage }) =>
        damage ? `${name} DAMAGED: ${damage}` : `${name} good`,
      );
      return [
        `${s.stage} (${STAGES[s.stage]}): ${s.isFinished ? 'finished' : 'not finished'}, ${s.steps} steps`,
        ...(s.losses ? [`  loss         ${s.losses.map((loss) => loss.toFixed(3)).join(' to ')}`] : []),
        ...(s.metricsDamage ? [`  metrics      DAMAGED: ${s.metricsDamage}`] : []),
        ...(s.trained === undefined ? [] : [`  trained      ${s.trained.toLocaleString('en')} scalars`]),
        `  size         ${(s.bytes / 1e6).toFixed(1)} MB`,
        ...(s.config ? [`  config       ${s.config}`] : []),
        ...checkpoints.map((line, i) => `  ${i === 0 ? 'checkpoints' : '           '}  ${line}`),
      ].join('\n');
    })
    .join('\n');
}
