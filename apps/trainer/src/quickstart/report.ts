import { fewShotPrompt, paperTemplates } from '@flamingo-ts/evaluation';
import { shotStream } from '@flamingo-ts/random';
import sharp from 'sharp';
import type { Config } from '../config/config';
import { answering, findRow, type Evaluation } from '../eval/evaluate';
import { lineChart, type Series } from '../report/charts';
import { escapeHtml, htmlPage, table } from '../report/html-page';
import { smooth, trainingCharts } from '../report/training-charts';
import type { JointModel } from '../stages/joint';
import { readSummary, stageMetrics, STAGES, type StageName } from '../stages/recipe';
import type { StepMetrics } from '../stages/metrics';
import type { EmojiData } from './emoji/data';
import { SIDE } from './emoji/concepts';
import { attributeTask } from './emoji/tasks';
import type { WordResults } from './emoji/words';
import { ALL_ANSWERS, ATTRIBUTES } from './emoji/world';
import type { QuickstartResults } from './quickstart';

const STYLE = `
.row{display:flex;flex-wrap:wrap;gap:.6rem}
.card{width:96px;text-align:center;font-size:.85rem;border:2px solid #ddd;border-radius:6px;padding:4px;background:#fff}
.card img{width:84px;height:84px;display:block;margin:0 auto 2px}
.card.right{border-color:#0f7b6c}.card.wrong{border-color:#c0392b}
.goals td:last-child{font-weight:600}
`;

const ATTRIBUTION =
  '<p class="note">Artwork: OpenMoji, the open-source emoji and icon project (CC BY-SA 4.0, openmoji.org), in color and black; Twemoji graphics (CC BY 4.0, copyright Twitter, Inc and other contributors). ' +
  'Both were rotated, scaled, tinted and placed on plain backgrounds. Names, tags and groups: emojibase-data (MIT). The images on this page are adaptations of that artwork under the same licenses.</p>';

/** The report of a quickstart as one HTML page. `others` are results with other seeds. */
export async function reportPage(
  config: Config,
  model: JointModel,
  data: EmojiData,
  results: QuickstartResults,
  others: readonly QuickstartResults[],
): Promise<string> {
  const { evaluation, words, unseenEvaluation, unseenStyle } = results;
  const stages: readonly StageName[] = ['vision', 'lm', 'flamingo'];
  const summaries = stages.map((stage) => readSummary(config.out, stage));
  const metrics = Object.fromEntries(stages.map((stage) => [stage, stageMetrics(config, stage)])) as Record<
    StageName,
    StepMetrics[]
  >;
  const conceptCount = (split: 'train' | 'choosing' | 'heldOut') =>
    data.world.concepts.filter((concept) => concept.split === split).length;

  const body = [
    '<h1>Flamingo in miniature</h1>',
    `<p>A vision encoder, a language model and the layers that connect them, trained from scratch in ${results.seconds['total']!.toFixed(0)} seconds on ` +
      `${results.machine}, backend ${results.backend}. Seed ${results.seed}. This run measured every number on this page.</p>`,
    '<h2>Goals</h2>',
    `<p class="note">Questions about ${conceptCount('heldOut')} concepts that no stage has seen. The prompt does not state the question: only its shots show it. ` +
      `The model chooses among all ${ALL_ANSWERS.length} answers of all four questions.</p>`,
    table([['', 'goal', 'measured', ''], ...goals(evaluation, results.closedGatesExact)], { className: 'goals' }),
    '<h2>Accuracy by number of shots</h2>',
    `<div class="charts">${accuracyChart(evaluation)}${conditionChart(evaluation)}</div>`,
    evaluationTable(
      evaluation,
      'Accuracy. Blank: every image of the prompt is white. Swapped: the query shows an image with another answer, and the old answer counts as correct.',
    ),
    ...(others.length > 0 ? [seedTable([results, ...others])] : []),
    '<h2>Prompts and answers</h2>',
    ...(await samplePrompts(model, data, config)).map(promptHtml),
    '<h2>Naming and binding</h2>',
    '<p class="note">Naming: the model writes a name after four named images, and has never seen the correct names. Binding: k shots bind a made-up word to each of two unseen concepts; guessing between the two words gives 0.5.</p>',
    table([
      ['made-up words, k', 'accuracy', 'prompts'],
      ...words.binding.map(({ k, score, count }) => [k, score.toFixed(3), count]),
    ]),
    await namingSection(words, data),
    ...(unseenEvaluation
      ? [
          `<h2>A style that training never saw: ${unseenStyle}</h2>`,
          evaluationTable(unseenEvaluation, 'The same questions, except for the name of the style.'),
        ]
      : []),
    '<h2>Training</h2>',
    `<div class="charts">${trainingCharts(metrics)}</div>`,
    table([
      ['stage', 'steps', 'trained parameters', 'seconds', 'waiting for data', 'final loss', 'measured'],
      ...stages.map((stage, i) => [
        STAGES[stage],
        summaries[i]!.steps,
        summaries[i]!.trained.toLocaleString('en'),
        summaries[i]!.seconds.toFixed(0),
        `${(100 * summaries[i]!.waitedShare).toFixed(1)}%`,
        smooth(metrics[stage].map(({ loss }) => loss))
          .at(-1)
          ?.toFixed(3) ?? '',
        Object.entries(summaries[i]!.measured)
          .map(([name, value]) => `${name} ${value.toFixed(2)}`)
          .join(', '),
      ]),
    ]),
    table([
      ['part', 'seconds'],
      ...Object.entries(results.seconds).map(([part, seconds]) => [part, seconds.toFixed(1)]),
    ]),
    '<h2>Data</h2>',
    `<p>${data.world.concepts.length} concepts in three styles and eight views each: ${data.world.imageCount.toLocaleString('en')} images of ${SIDE} x ${SIDE} pixels. ` +
      `The split keeps families of concepts together: ${conceptCount('train')} concepts for training, ${conceptCount('choosing')} for tuning the configuration, ${conceptCount('heldOut')} held out for this page.</p>`,
    ATTRIBUTION,
  ];
  return htmlPage({ title: 'Flamingo quickstart', body, style: STYLE });
}

/** Rows of the table of goals: measure, goal, measured value, whether it is met. */
function goals(evaluation: Evaluation, closedGatesExact: boolean): [string, string, string, string][] {
  const at = (condition: 'real' | 'blank' | 'swapped', shots: number) =>
    findRow(evaluation, condition, shots)?.mean ?? NaN;
  const fourShots = at('real', 4);
  const row = (what: string, goal: string, measured: string, isMet: boolean): [string, string, string, string] => [
    what,
    goal,
    measured,
    isMet ? 'met' : 'missed',
  ];
  const gain = (what: string, goal: number, base: number) =>
    row(what, `at least ${goal.toFixed(2)}`, (fourShots - base).toFixed(3), fourShots - base >= goal);
  return [
    row('accuracy at 4 shots', 'at least 0.70', fourShots.toFixed(3), fourShots >= 0.7),
    gain('gain over 0 shots', 0.3, at('real', 0)),
    gain('gain over blank images', 0.4, at('blank', 4)),
    row('old answer when the image is swapped', 'at most 0.10', at('swapped', 4).toFixed(3), at('swapped', 4) <= 0.1),
    row(
      'with gates at 0, equal to the language model bit for bit',
      'yes',
      closedGatesExact ? 'yes' : 'no',
      closedGatesExact,
    ),
  ];
}

function accuracyChart(evaluation: Evaluation): string {
  const rows = evaluation.rows.filter((row) => row.condition === 'real');
  const series = Object.keys(rows[0]?.scores ?? {}).map((name): Series => ({
    name,
    points: rows.map((row) => [row.shots, row.scores[name]!]),
  }));
  return accuracyLines('By question, real images', series, evaluation);
}

function conditionChart(evaluation: Evaluation): string {
  const series = (['real', 'blank', 'swapped'] as const).map((condition): Series => ({
    name: condition,
    dashed: condition !== 'real',
    points: evaluation.rows.filter((row) => row.condition === condition).map((row) => [row.shots, row.mean]),
  }));
  return accuracyLines('Mean over the questions', series, evaluation);
}

function accuracyLines(title: string, series: readonly Series[], { rows }: Evaluation): string {
  const xTicks = rows.filter((row) => row.condition === 'real').map((row) => row.shots);
  return lineChart(series, { title, x: 'shots', y: 'accuracy', yMin: 0, yMax: 1, xTicks });
}

function evaluationTable({ rows }: Evaluation, caption: string): string {
  const names = Object.keys(rows[0]?.scores ?? {});
  return table(
    [
      ['images, shots', ...names, 'mean', '±', 'prompts'],
      ...rows.map((row) => [
        `${row.condition}, ${row.shots}`,
        ...names.map((name) => row.scores[name]!.toFixed(2)),
        row.mean.toFixed(3),
        row.standardError.toFixed(3),
        row.count,
      ]),
    ],
    { caption },
  );
}

/** The main figures for every seed, and their spread. */
function seedTable(runs: readonly QuickstartResults[]): string {
  const columns = [
    ['real, 0', 'real', 0],
    ['real, 4', 'real', 4],
    ['blank, 4', 'blank', 4],
    ['swapped, 4', 'swapped', 4],
  ] as const;
  const values = columns.map(([, condition, shots]) =>
    runs.map(({ evaluation }) => findRow(evaluation, condition, shots)?.mean ?? NaN),
  );
  const spread = values.map((column) => (Math.max(...column) - Math.min(...column)).toFixed(3));
  return table(
    [
      ['seed', ...columns.map(([name]) => name), 'seconds'],
      ...runs.map(({ seed, seconds }, i) => [
        seed,
        ...values.map((column) => column[i]!.toFixed(3)),
        seconds['total']!.toFixed(0),
      ]),
      ['largest minus smallest', ...spread, ''],
    ],
    { caption: 'The whole recipe with other seeds: other splits, other images, other weights.' },
  );
}

/** One image with its text. */
interface Card {
  /** data: URI */
  readonly src: string;
  readonly text: string;
}

/** A prompt with the model's answer and the correct one. */
export interface ShownPrompt {
  readonly title: string;
  readonly shots: readonly Card[];
  /** data: URI of the query's image */
  readonly query: string;
  readonly answer: string;
  readonly truth: string;
}

/** A prompt as a row of images, the last one with the model's answer. */
export function promptHtml({ title, shots, query, answer, truth }: ShownPrompt): string {
  const cards = shots.map((shot) => cardHtml(shot, 'shot'));
  return `<h3>${escapeHtml(title)}</h3><div class="row">${cards.join('')}${answerHtml(query, answer, truth)}</div>`;
}

function answerHtml(src: string, answer: string, truth: string): string {
  const isRight = answer === truth;
  return cardHtml({ src, text: isRight ? answer : `${answer} (correct: ${truth})` }, isRight ? 'right' : 'wrong');
}

function cardHtml({ src, text }: Card, kind: 'shot' | 'right' | 'wrong'): string {
  return `<div class="card ${kind}"><img src="${src}" alt=""><span>${escapeHtml(text)}</span></div>`;
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
      const shots = select(query, 3, shotStream(config.eval.seed, i), i);
      const [scores] = await scorer(
        [fewShotPrompt(task.template, shots, query)],
        ALL_ANSWERS.map((answer) => paperTemplates.caption.answer(answer)),
      );
      const best = ALL_ANSWERS[Array.from(scores!).indexOf(Math.max(...Array.from(scores!)))]!;
      shown.push({
        title: attribute,
        shots: await Promise.all(
          shots.map(async (shot) => ({ src: await dataUri(data, shot.image as number), text: shot.answer })),
        ),
        query: await dataUri(data, query.image as number),
        answer: best,
        truth: query.answer,
      });
    }
  }
  return shown;
}

async function namingSection({ naming }: WordResults, data: EmojiData): Promise<string> {
  const cards = await Promise.all(
    naming.samples
      .slice(0, 16)
      .map(async ({ key, prediction, label }) =>
        answerHtml(await dataUri(data, key as number), prediction || '(nothing)', label),
      ),
  );
  const note = `Exact: ${naming.exact.toFixed(3)} of ${naming.count}. Counting an answer that shares a word with the label or tags as half: ${naming.score.toFixed(3)}.`;
  return `<p>${note}</p><div class="row">${cards.join('')}</div>`;
}

async function dataUri(data: EmojiData, image: number): Promise<string> {
  const raw = { width: SIDE, height: SIDE, channels: 3 } as const;
  const png = await sharp(data.world.image(image), { raw }).resize(96, 96).png().toBuffer();
  return `data:image/png;base64,${png.toString('base64')}`;
}
