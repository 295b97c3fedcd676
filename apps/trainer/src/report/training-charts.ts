import type { StepMetrics } from '../stages/metrics';
import type { StageName } from '../stages/recipe';
import { lineChart, type Series } from './charts';

/** Points drawn per line; more would not be visible. */
const MAX_POINTS = 200;
/** Steps that a smoothed loss averages over. */
const SMOOTHING = 20;

const TITLES: Readonly<Record<StageName, string>> = {
  vision: 'Vision: contrastive loss',
  lm: 'Language: loss per token',
  flamingo: 'Flamingo: loss by dataset',
};

/** Charts of the losses of each stage, of its retrieval on the validation split, and of the gates. */
export function trainingCharts(metrics: Readonly<Partial<Record<StageName, readonly StepMetrics[]>>>): string {
  const charts = (Object.keys(TITLES) as StageName[]).flatMap((stage) => {
    const steps = metrics[stage] ?? [];
    if (steps.length === 0) return [];
    const checks = steps.flatMap(({ step, validation }) => (validation ? [{ step, ...validation }] : []));
    const datasets = [...new Set(steps.flatMap(({ losses }) => Object.keys(losses)))];
    const losses = datasets.map((name) => {
      const own = steps.filter(({ losses }) => losses[name] !== undefined);
      const values = smooth(own.map(({ losses }) => losses[name]!));
      return { name, points: thin(values.map((value, i) => [own[i]!.step, value] as const)) };
    });
    const checked = (name: string, value: (check: (typeof checks)[number]) => number | undefined): Series[] => {
      const points = checks.flatMap((check) => {
        const y = value(check);
        return y === undefined ? [] : [[check.step, y] as const];
      });
      return points.length > 0 ? [{ name, dashed: name !== 'retrieval', points }] : [];
    };
    const retrieval = [...checked('retrieval', (c) => c.retrieval), ...checked('chance', (c) => c.chance)];
    const title = TITLES[stage];
    const ranking = { title: `${title.split(':')[0]}: retrieval on the validation split`, x: 'step', y: 'recall at 1' };
    return [
      lineChart([...losses, ...checked('validation', ({ loss }) => loss)], { title, x: 'step', y: 'loss' }),
      ...(retrieval.length > 0 ? [lineChart(retrieval, { ...ranking, yMin: 0, yMax: 1 })] : []),
    ];
  });
  const { flamingo = [] } = metrics;
  const gates = Object.keys(flamingo[0]?.figures ?? {}).filter((name) => name.startsWith('attn'));
  const gate = (name: string): Series => ({
    name,
    points: thin(flamingo.map(({ step, figures }) => [step, figures![name]!] as const)),
  });
  const gateChart = lineChart(gates.map(gate), {
    title: 'Flamingo: tanh of the attention gates',
    x: 'step',
    y: 'tanh(gate)',
  });
  return [...charts, ...(gates.length > 0 ? [gateChart] : [])].join('');
}

/** A running mean over about `SMOOTHING` steps. */
export function smooth(values: readonly number[]): number[] {
  let mean = values[0] ?? 0;
  return values.map((value, i) => (mean += (value - mean) / Math.min(i + 1, SMOOTHING)));
}

function thin<T>(points: readonly T[]): T[] {
  const every = Math.max(1, Math.floor(points.length / MAX_POINTS));
  return points.filter((_, i) => i % every === 0 || i === points.length - 1);
}
