import { existsSync, readdirSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { CheckpointFolder } from '@flamingo-ts/checkpoint';
import { escapeHtml, htmlPage, table } from '../report/html-page';
import { trainingCharts } from '../report/training-charts';
import { describeCheck, readMetrics, type StepMetrics, type ValidationMetrics } from '../stages/metrics';
import { CONFIG_FILE, MODEL_FILE, readSummary, STAGES, SUMMARY_FILE, type StageName } from '../stages/recipe';
import { CHECKPOINTS, METRICS_FILE } from '../stages/stage';

/** State of one stage in a run folder. */
export interface StageInfo {
  readonly stage: StageName;
  readonly isFinished: boolean;
  /** Number of steps in the metrics. */
  readonly steps: number;
  /** Loss of the first and of the last step. */
  readonly losses?: readonly [number, number];
  /** The check with the lowest loss, whose weights are kept, and the steps done before it. */
  readonly best?: ValidationMetrics & { readonly step: number };
  /** Number of trained scalars, once the stage is finished. */
  readonly trained?: number;
  /** The file with the configuration that the stage ran with. */
  readonly config?: string;
  /** Total size of the stage's files. */
  readonly bytes: number;
  /** Checkpoints, newest first. `damage` describes what is wrong with one. */
  readonly checkpoints: readonly { readonly name: string; readonly damage?: string }[];
  /** Why the summary cannot be read, if it is damaged. */
  readonly summaryDamage?: string;
  /** Why the metrics cannot be read, if they are damaged. */
  readonly metricsDamage?: string;
}

/**
 * Inspects every stage in a run folder. Reads each checkpoint and verifies its hashes.
 *
 * @throws Error if the folder holds no stage
 */
export async function inspectRun(folder: string): Promise<StageInfo[]> {
  const stages = (Object.keys(STAGES) as StageName[]).filter((stage) => existsSync(join(folder, stage)));
  if (stages.length === 0) {
    throw new Error(
      `info: ${folder} has none of the folders ${Object.keys(STAGES).join(', ')}. Pass the folder that out names in the configuration of the run.`,
    );
  }
  return Promise.all(stages.map((stage) => inspectStage(folder, stage)));
}

async function inspectStage(run: string, stage: StageName): Promise<StageInfo> {
  const folder = join(run, stage);
  const config = join(folder, CONFIG_FILE);
  const isFinished = [SUMMARY_FILE, MODEL_FILE].every((file) => existsSync(join(folder, file)));
  const summary = attempt(() => (isFinished ? readSummary(run, stage) : undefined));
  const metrics = attempt(() => readMetrics(join(folder, METRICS_FILE)));
  const first = metrics.value?.[0];
  return {
    stage,
    isFinished,
    steps: metrics.value?.length ?? 0,
    ...(first && { losses: [first.loss, metrics.value!.at(-1)!.loss] as const }),
    ...bestOf(metrics.value ?? []),
    ...(summary.value && { trained: summary.value.trained }),
    ...(summary.damage && { summaryDamage: summary.damage }),
    ...(existsSync(config) && { config }),
    bytes: bytesOf(folder),
    checkpoints: await new CheckpointFolder(join(folder, CHECKPOINTS)).check(),
    ...(metrics.damage && { metricsDamage: metrics.damage }),
  };
}

function bestOf(metrics: readonly StepMetrics[]): Pick<StageInfo, 'best'> {
  const checks = metrics.flatMap(({ step, validation }) => (validation ? [{ step: step + 1, ...validation }] : []));
  const lowest = Math.min(...checks.map(({ loss }) => loss));
  const best = checks.find(({ loss }) => loss === lowest);
  return best ? { best } : {};
}

function attempt<T>(read: () => T): { readonly value?: T; readonly damage?: string } {
  try {
    return { value: read() };
  } catch (error) {
    return { damage: (error as Error).message };
  }
}

function bytesOf(folder: string): number {
  return readdirSync(folder, { withFileTypes: true, recursive: true })
    .filter((entry) => entry.isFile())
    .reduce((sum, entry) => sum + statSync(join(entry.parentPath, entry.name)).size, 0);
}

/** Formats the stages of a run as text. */
export function formatRun(stages: readonly StageInfo[]): string {
  return stages
    .map((s) => {
      const checkpoints = s.checkpoints.map(({ name, damage }) =>
        damage ? `${name} DAMAGED: ${damage}` : `${name} good`,
      );
      return [
        `${s.stage} (${STAGES[s.stage]}): ${s.isFinished ? 'finished' : 'not finished'}, ${s.steps} steps`,
        ...(s.losses ? [`  loss         ${s.losses.map((loss) => loss.toFixed(3)).join(' to ')}`] : []),
        ...(s.summaryDamage ? [`  summary      DAMAGED: ${s.summaryDamage}`] : []),
        ...(s.best ? [`  best check   step ${s.best.step}: ${describeCheck(s.best)}`] : []),
        ...(s.metricsDamage ? [`  metrics      DAMAGED: ${s.metricsDamage}`] : []),
        ...(s.trained === undefined ? [] : [`  trained      ${s.trained.toLocaleString('en')} scalars`]),
        `  size         ${(s.bytes / 1e6).toFixed(1)} MB`,
        ...(s.config ? [`  config       ${s.config}`] : []),
        ...checkpoints.map((line, i) => `  ${i === 0 ? 'checkpoints' : '           '}  ${line}`),
      ].join('\n');
    })
    .join('\n');
}

/** The losses and checks of a run as one HTML page. */
export function runPage(run: string, stages: readonly StageInfo[]): string {
  const metrics = stages.map(({ stage, metricsDamage }) => [
    stage,
    metricsDamage ? [] : readMetrics(join(run, stage, METRICS_FILE)),
  ]);
  const header = ['stage', 'steps', 'first loss', 'last loss', 'best check'];
  const rows = stages.map(({ stage, steps, losses = [], best }) => [
    STAGES[stage],
    steps,
    ...[0, 1].map((i) => losses[i]?.toFixed(3) ?? ''),
    best ? `step ${best.step}: ${describeCheck(best)}` : '',
  ]);
  const charts = trainingCharts(Object.fromEntries(metrics) as Partial<Record<StageName, StepMetrics[]>>);
  return htmlPage({
    title: run,
    body: [`<h1>${escapeHtml(run)}</h1>`, table([header, ...rows]), `<div class="charts">${charts}</div>`],
  });
}
