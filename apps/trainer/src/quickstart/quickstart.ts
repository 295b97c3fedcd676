import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { fewShotPrompt, paperTemplates, seededStream } from '@flamingo-ts/evaluation';
import type { BackendChoice } from '@flamingo-ts/kernels';
import * as tf from '@tensorflow/tfjs-core';
import sharp from 'sharp';
import type { Config } from '../config/config';
import { machineSummary } from '../cli/doctor';
import { EmojiData } from './emoji/data';
import { SIDE } from './emoji/images';
import { attributeTask } from './emoji/tasks';
import { ALL_ANSWERS, ATTRIBUTES } from './emoji/world';
import { answering, evaluate, findRow, type Evaluation } from '../eval/evaluate';
import type { JointModel } from '../stages/joint';
import {
  openData,
  pretrainLanguage,
  pretrainVision,
  readSummary,
  stageMetrics,
  STAGES,
  trainJoint,
  type StageName,
} from '../stages/recipe';
import { replaceFile } from '../stages/replace-file';
import { lineChart, page, promptGallery, table, type Series, type ShownPrompt } from './report';
import type { StepMetrics } from '../stages/stage';
import type { StopSignal } from '../cli/stop-signal';

/** What a quickstart leaves in `results.json`, for the report and for comparing seeds. */
export interface QuickstartResults {
  readonly seed: number;
  readonly backend: string;
  readonly machine: string;
  readonly unseenStyle?: string;
  /** Seconds by part of the run. */
  readonly seconds: Readonly<Record<string, number>>;
  /** Whether the output with gates at 0 was the language model's own, bit for bit. */
  readonly closedGatesExact: boolean;
  readonly evaluation: Evaluation;
  /** Of the style kept out of training, if one was. */
  readonly unseenEvaluation?: Evaluation;
}

export interface QuickstartOptions {
  readonly config: Config;
  readonly backend: BackendChoice;
  readonly stop: StopSignal;
  readonly fresh?: boolean;
  /** When the whole command began, set-up included; milliseconds since 1970. */
  readonly startedAt?: number;
  /** Results of other seeds, for the spread. */
  readonly others?: readonly QuickstartResults[];
}

/** The whole recipe: data, three stages, evaluation, report. Returns the results and the report's path. */
export async function quickstart(options: QuickstartOptions): Promise<{ results: QuickstartResults; report: string }> {
  const { config, backend, stop, fresh, startedAt = Date.now() } = options;
  mkdirSync(config.out, { recursive: true });
  const seconds: Record<string, number> = { 'set-up': (Date.now() - startedAt) / 1000 };
  const timed = async <T>(name: string, work: () => Promise<T>): Promise<T> => {
    const from = performance.now();
    const value = await work();
    seconds[name] = (performance.now() - from) / 1000;
    return value;
  };

  const data = await timed('data', () => openData(config));
  if (!(data instanceof EmojiData))
    throw new Error('quickstart: expected data of kind emoji. Use the single commands.');
  const run = { config, data, stop, fresh };
  await timed('vision', async () => (await pretrainVision(run)).dispose());
  await timed('language', async () => (await pretrainLanguage(run)).dispose());
  const model = await timed('flamingo', () => trainJoint(run));
  const closedGatesExact = await closedGatesAreExact(model, data);
  const evaluation = await timed('evaluation', () => evaluate(model, data, config, { split: 'heldOut' }));
  const unseenStyle = config.data.kind === 'emoji' ? config.data.unseenStyle : undefined;
  const unseenEvaluation = unseenStyle
    ? await timed('unseen style', () => evaluate(model, data, config, { split: 'heldOut', style: 'unseen' }))
    : undefined;
  seconds['total'] = (Date.now() - startedAt) / 1000;

  const results: QuickstartResults = {
    seed: config.seed,
    backend: backend.name,
    machine: machineSummary(),
    ...(unseenStyle && { unseenStyle }),
    seconds,
    closedGatesExact,
    evaluation,
    ...(unseenEvaluation && { unseenEvaluation }),
  };
  replaceFile(join(config.out, 'results.json'), `${JSON.stringify(results, null, 2)}\n`);
  const report = resolve(config.out, 'report.html');
  writeFileSync(report, await reportPage(config, model, data, results, options.others ?? []));
  return { results, report };
}

/** With every gate at 0 the logits must be the language model's, bit for bit, whatever the images. */
export async function closedGatesAreExact(model: JointModel, data: EmojiData): Promise<boolean> {
  const { flamingo, language, features } = model;
  const [feature] = await features.get([data.world.images('heldOut')[0]!]);
  const { image } = flamingo.config.tokens;
  const prompt = [image, ...language.tokenizer.encode('Output: red\nOutput:')];
  const gates = flamingo.params.xattn.blocks.flatMap((b) => [b.attnGate, b.mlpGate]);
  const learned = [...gates, flamingo.params.tokenOffsets];
  const values = learned.map((v) => v.dataSync().slice());
  const [patches, width] = [model.tower.patches, model.tower.encoder.featureDim];
  try {
    tf.tidy(() => learned.forEach((v) => v.assign(tf.zerosLike(v) as never)));
    const visual = { kind: 'features' as const, shape: [1, 1, patches, width], data: feature! };
    const seeing = await flamingo.score(
      [{ tokens: prompt, visual }],
      [ALL_ANSWERS.map((a) => language.tokenizer.encode(` ${a}`))],
    );
    const blind = await flamingo.score(
      [{ tokens: prompt, mediaIndex: prompt.map(() => 0) }],
      [ALL_ANSWERS.map((a) => language.tokenizer.encode(` ${a}`))],
    );
    return seeing[0]!.every((s, i) => s.sum === blind[0]![i]!.sum);
  } finally {
    tf.tidy(() => learned.forEach((v, i) => v.assign(tf.tensor(values[i]!, v.shape) as never)));
  }
}

// --- Report ---

/** What the recipe is held to, with what it gave. */
function goals(evaluation: Evaluation, closedGatesExact: boolean): [string, string, string, string][] {
  const at = (condition: 'real' | 'blank' | 'swapped', shots: number) =>
    findRow(evaluation, condition, shots)?.mean ?? NaN;
  const four = at('real', 4);
  const goal = (what: string, want: string, got: number, met: boolean): [string, string, string, string] => [
    what,
    want,
    got.toFixed(3),
    met ? 'met' : 'missed',
  ];
  return [
    goal('right answers at 4 shots', 'at least 0.70', four, four >= 0.7),
    goal('more than at 0 shots', 'by at least 0.30', four - at('real', 0), four - at('real', 0) >= 0.3),
    goal('more than with blank images', 'by at least 0.40', four - at('blank', 4), four - at('blank', 4) >= 0.4),
    goal('old answer when the image is swapped', 'at most 0.10', at('swapped', 4), at('swapped', 4) <= 0.1),
    [
      'gates at 0 give the language model bit for bit',
      'yes',
      closedGatesExact ? 'yes' : 'no',
      closedGatesExact ? 'met' : 'missed',
    ],
  ];
}

async function reportPage(
  config: Config,
  model: JointModel,
  data: EmojiData,
  results: QuickstartResults,
  others: readonly QuickstartResults[],
): Promise<string> {
  const { evaluation, unseenEvaluation, unseenStyle } = results;
  const stages: readonly StageName[] = ['vision', 'lm', 'flamingo'];
  const summaries = stages.map((s) => readSummary(config, s));
  const metrics = Object.fromEntries(stages.map((s) => [s, stageMetrics(config, s)])) as Record<
    StageName,
    StepMetrics[]
  >;
  const counts = (split: 'train' | 'choosing' | 'heldOut') =>
    data.world.concepts.filter((c) => c.split === split).length;
  const percent = (n: number) => n.toFixed(3);

  const sections = [
    '<h1>Flamingo in miniature</h1>',
    `<p>A vision encoder, a language model and what joins them, trained from nothing in ${results.seconds['total']!.toFixed(0)} seconds on ` +
      `${results.machine}, backend ${results.backend}. Seed ${results.seed}. Every figure on this page was measured by the run that wrote it.</p>`,
    '<h2>What it was held to</h2>',
    `<p class="note">Questions about ${counts('heldOut')} concepts that no stage has seen. The prompt never says what is asked: only its examples do. ` +
      `The answer is the likeliest of all ${ALL_ANSWERS.length} answers of all four questions.</p>`,
    table([['', 'wanted', 'measured', ''], ...goals(evaluation, results.closedGatesExact)]).replace(
      '<table>',
      '<table class="goals">',
    ),
    '<h2>Answers by number of examples</h2>',
    `<div class="charts">${accuracyChart(evaluation)}${conditionChart(evaluation)}</div>`,
    evaluationTable(
      evaluation,
      'Share of right answers. Blank: every image of the prompt is white. Swapped: the query shows an image with another answer, and the old answer is what counts.',
    ),
    ...(others.length > 0 ? [seedTable([results, ...others])] : []),
    '<h2>Prompts and answers</h2>',
    promptGallery(await samplePrompts(model, data, config)),
    '<h2>Naming and binding</h2>',
    '<p class="note">Names are written freely after four named images; the right names were never seen. A made-up word is bound to each of two unseen concepts by k examples; between the two words guessing gives 0.5.</p>',
    table([
      ['made-up words, k', 'right', 'prompts'],
      ...evaluation.binding.map((b) => [b.k, percent(b.score), b.count]),
    ]),
    await namingSection(evaluation, data),
    ...(unseenEvaluation
      ? [
          `<h2>A style that training never saw: ${unseenStyle}</h2>`,
          evaluationTable(unseenEvaluation, 'The same questions, save what the style is called.'),
        ]
      : []),
    '<h2>Training</h2>',
    `<div class="charts">${lossCharts(metrics)}</div>`,
    table([
      ['stage', 'steps', 'trained', 'seconds', 'waiting for data', 'loss at the end', 'measured'],
      ...stages.map((s, i) => [
        STAGES[s],
        summaries[i]!.steps,
        summaries[i]!.trained.toLocaleString('en'),
        summaries[i]!.seconds.toFixed(0),
        `${(100 * summaries[i]!.waitedShare).toFixed(1)}%`,
        smooth(metrics[s].map((m) => m.loss))
          .at(-1)
          ?.toFixed(3) ?? '',
        Object.entries(summaries[i]!.measured)
          .map(([k, v]) => `${k} ${v.toFixed(2)}`)
          .join(', '),
      ]),
    ]),
    table([['part', 'seconds'], ...Object.entries(results.seconds).map(([k, v]) => [k, v.toFixed(1)])]),
    '<h2>Data</h2>',
    `<p>${data.world.concepts.length} concepts in three styles and eight views each: ${data.world.imageCount.toLocaleString('en')} images of ${SIDE} x ${SIDE}. ` +
      `Families of concepts are kept together: ${counts('train')} concepts train, ${counts('choosing')} served to choose settings, ${counts('heldOut')} are held out for this page.</p>`,
    ATTRIBUTION,
  ];
  return page('Flamingo quickstart', sections);
}

const ATTRIBUTION =
  '<p class="note">Artwork: OpenMoji, the open-source emoji and icon project (CC BY-SA 4.0, openmoji.org), in colour and black; Twemoji graphics (CC BY 4.0, copyright Twitter, Inc and other contributors). ' +
  'Both were turned, scaled, tinted and put on plain grounds. Names, tags and groups: emojibase-data (MIT). The images on this page are adaptations of that artwork under the same licences.</p>';

function accuracyChart(evaluation: Evaluation): string {
  const rows = evaluation.rows.filter((r) => r.condition === 'real');
  const series = Object.keys(rows[0]?.scores ?? {}).map((name): Series => ({
    name,
    points: rows.map((r) => [r.shots, r.scores[name]!]),
  }));
  return lineChart(series, {
    title: 'By question, real images',
    x: 'examples',
    y: 'right',
    yMin: 0,
    yMax: 1,
    xTicks: rows.map((r) => r.shots),
  });
}

function conditionChart(evaluation: Evaluation): string {
  const series = (['real', 'blank', 'swapped'] as const).map((condition): Series => ({
    name: condition,
    dashed: condition !== 'real',
    points: evaluation.rows.filter((r) => r.condition === condition).map((r) => [r.shots, r.mean]),
  }));
  const xTicks = evaluation.rows.filter((r) => r.condition === 'real').map((r) => r.shots);
  return lineChart(series, { title: 'Mean over the questions', x: 'examples', y: 'right', yMin: 0, yMax: 1, xTicks });
}

function evaluationTable(evaluation: Evaluation, caption: string): string {
  const names = Object.keys(evaluation.rows[0]?.scores ?? {});
  return table(
    [
      ['images, examples', ...names, 'mean', '+-', 'prompts'],
      ...evaluation.rows.map((r) => [
        `${r.condition}, ${r.shots}`,
        ...names.map((n) => r.scores[n]!.toFixed(2)),
        r.mean.toFixed(3),
        r.standardError.toFixed(3),
        r.count,
      ]),
    ],
    caption,
  );
}

/** The goals' figures for every seed, and how far they lie apart. */
function seedTable(runs: readonly QuickstartResults[]): string {
  const figure = (r: QuickstartResults, condition: 'real' | 'blank' | 'swapped', shots: number) =>
    findRow(r.evaluation, condition, shots)?.mean ?? NaN;
  const columns = [
    ['real, 0', 'real', 0],
    ['real, 4', 'real', 4],
    ['blank, 4', 'blank', 4],
    ['swapped, 4', 'swapped', 4],
  ] as const;
  const values = columns.map(([, condition, shots]) => runs.map((r) => figure(r, condition, shots)));
  const spread = values.map((v) => (Math.max(...v) - Math.min(...v)).toFixed(3));
  return table(
    [
      ['seed', ...columns.map(([name]) => name), 'seconds'],
      ...runs.map((r, i) => [r.seed, ...values.map((v) => v[i]!.toFixed(3)), r.seconds['total']!.toFixed(0)]),
      ['largest less smallest', ...spread, ''],
    ],
    'The whole recipe with other seeds: other splits, other images, other weights.',
  );
}

async function samplePrompts(model: JointModel, data: EmojiData, config: Config): Promise<ShownPrompt[]> {
  const { scorer } = answering(model);
  const shown: ShownPrompt[] = [];
  for (const attribute of ATTRIBUTES) {
    const task = attributeTask(data.world, attribute, 'real', {
      split: 'heldOut',
      style: 'seen',
      prompts: 3,
      seed: config.eval.seed + 1,
    });
    for (const [i, query] of task.queries.entries()) {
      const select = task.support as Exclude<typeof task.support, readonly unknown[]>;
      const examples = select(query, 3, seededStream(config.eval.seed, i), i);
      const [scores] = await scorer!(
        [fewShotPrompt(task.template, examples, query)],
        ALL_ANSWERS.map((a) => paperTemplates.caption.answer(a)),
      );
      const best = ALL_ANSWERS[Array.from(scores!).indexOf(Math.max(...Array.from(scores!)))]!;
      shown.push({
        title: attribute,
        examples: await Promise.all(
          examples.map(async (e) => ({ src: await dataUri(data, e.image as number), text: e.answer })),
        ),
        query: await dataUri(data, query.image as number),
        answer: best,
        truth: query.answer,
      });
    }
  }
  return shown;
}

async function namingSection(evaluation: Evaluation, data: EmojiData): Promise<string> {
  const { naming } = evaluation;
  if (!naming) return '';
  const cards = await Promise.all(
    naming.samples.slice(0, 16).map(async ({ key, said, label }) => ({
      title: '',
      examples: [],
      query: await dataUri(data, key as number),
      answer: said || '(nothing)',
      truth: label,
    })),
  );
  const note = `Exactly right: ${naming.exact.toFixed(3)} of ${naming.count}; with a word of the label or tags counting half: ${naming.score.toFixed(3)}.`;
  return `<p>${note}</p><div class="row">${promptGallery(cards).replaceAll('<h4></h4>', '')}</div>`;
}

async function dataUri(data: EmojiData, image: number): Promise<string> {
  const raw = { width: SIDE, height: SIDE, channels: 3 } as const;
  const png = await sharp(data.world.image(image), { raw }).resize(96, 96).png().toBuffer();
  return `data:image/png;base64,${png.toString('base64')}`;
}

function lossCharts(metrics: Record<StageName, StepMetrics[]>): string {
  const line = (name: string, points: readonly StepMetrics[], value: (m: StepMetrics) => number): Series => {
    const values = smooth(points.map(value));
    return { name, points: thin(values.map((v, i) => [points[i]!.step, v] as const)) };
  };
  const names = Object.keys(metrics.flamingo[0]?.losses ?? {});
  const gates = Object.keys(metrics.flamingo[0]?.figures ?? {}).filter((n) => n.startsWith('attn'));
  return [
    lineChart([line('contrastive', metrics.vision, (m) => m.loss)], {
      title: 'Vision: contrastive loss',
      x: 'step',
      y: 'loss',
    }),
    lineChart([line('text', metrics.lm, (m) => m.loss)], { title: 'Language: loss per token', x: 'step', y: 'loss' }),
    lineChart(
      names.map((n) => line(n, metrics.flamingo, (m) => m.losses[n]!)),
      { title: 'Flamingo: loss of each data set', x: 'step', y: 'loss' },
    ),
    lineChart(
      gates.map((n) => ({ name: n, points: thin(metrics.flamingo.map((m) => [m.step, m.figures![n]!] as const)) })),
      { title: 'Flamingo: tanh of the attention gates', x: 'step', y: 'tanh(gate)' },
    ),
  ].join('');
}

/** A running mean over about twenty steps. */
function smooth(values: readonly number[]): number[] {
  let mean = values[0] ?? 0;
  return values.map((v, i) => (mean += (v - mean) / Math.min(i + 1, 20)));
}

/** At most some 200 points: more cannot be seen. */
function thin<T>(points: readonly T[]): T[] {
  const every = Math.max(1, Math.floor(points.length / 200));
  return points.filter((_, i) => i % every === 0 || i === points.length - 1);
}

/** Results that an earlier run left in a folder. */
export function readResults(folder: string): QuickstartResults {
  return JSON.parse(readFileSync(join(folder, 'results.json'), 'utf8')) as QuickstartResults;
}
