import { readFileSync } from 'node:fs';
import { Command, CommanderError, Help, InvalidArgumentError, Option } from 'commander';
import { useBackend, type BackendChoice } from '@flamingo-ts/kernels';
import type { BenchFlags } from '../bench/command';
import { wholeNumberFrom } from './command-text';
import type { Config, ConfigCommand } from '../config/config';
import { PACKAGE } from '../configs';
import { addExtractCommands } from './data-commands';
import { addDatasetCommands } from './dataset-commands';
import type { RunOptions, StageName } from '../stages/recipe';
import { Interrupted, StopSignal } from './stop-signal';
import type { TrainingData } from '../data/training-data';

// Each command imports its modules only when it runs, to save time and memory.
const recipe = () => import('../stages/recipe');

/** Exit status of a run that Ctrl-C stopped and that can be resumed. */
const INTERRUPTED = 130;
/** Maximum number of unreadable images to name at the end of a command. */
const SKIPPED_NAMED = 10;

export const BACKENDS = ['auto', 'native', 'tensorflow', 'wasm', 'cpu'] as const;
export const SET = [
  '--set <key=value>',
  'change a configuration key, for example lm.train.steps=10; repeatable',
  setKey,
] as const;
export const FRESH = ['--fresh', 'start over instead of resuming from a checkpoint'] as const;

/** Shown below the list of commands. */
const OVERVIEW = `
Try everything, without preparing data:
  flamingo quickstart

Train on your own images:
  flamingo init my.yaml
  flamingo data check my-data
  flamingo pretrain-vision my.yaml
  flamingo pretrain-lm my.yaml
  flamingo train my.yaml
  flamingo eval my.yaml
  flamingo generate my.yaml --image sky.jpg --example grass.jpg=green

To resume a stopped training run, run the same command again.`;

/** Options of commands that read a configuration. */
interface RunFlags {
  readonly set?: Record<string, unknown>;
  readonly fresh?: boolean;
  readonly json?: boolean;
}

/** Adds commands to the program. */
export type AddCommands = (program: Command) => void;

/** Runs the command line and returns its exit status. */
export async function main(argv: readonly string[], more: readonly AddCommands[] = []): Promise<number> {
  const program = createProgram(more);
  try {
    await program.parseAsync([...argv]);
    return Number(process.exitCode ?? 0);
  } catch (error) {
    // Commander has printed its own message already.
    if (error instanceof CommanderError) return error.exitCode;
    process.stderr.write(`${error instanceof Error ? error.message : String(error)}\n`);
    return error instanceof Interrupted ? INTERRUPTED : 1;
  }
}

/** The `flamingo` command with all its sub-commands. */
export function createProgram(more: readonly AddCommands[] = []): Command {
  const program = new Command('flamingo')
    .description('Train Flamingo on images and text, and answer few-shot prompts.')
    .version(packageVersion(), '--version', 'print the version')
    .addHelpText('after', OVERVIEW)
    .configureHelp({ optionDescription: describeOption })
    .exitOverride();

  program
    .command('doctor')
    .description('Check which backends and tools work on this machine')
    .option('--json', 'print JSON')
    .action(async ({ json }: { json?: boolean }) => {
      const findings = await (await import('./doctor')).examine();
      if (json) return print(JSON.stringify(findings, null, 2));
      for (const f of findings) print(`${f.ok ? 'ok' : 'no'}  ${f.what.padEnd(20)} ${f.detail}`);
    });

  program
    .command('init')
    .description('Write a commented configuration for your own data')
    .argument('<file>', 'YAML file to write')
    .option('--data <folder>', 'folder with your data, relative to the file', 'my-data')
    .action(async (file: string, { data }: { data: string }) => {
      (await import('./init')).initConfig(file, data);
      print(`${file}: edit it, then run flamingo data check ${data} and flamingo pretrain-vision ${file}.`);
    });

  program
    .command('info')
    .description('Show the steps, losses and sizes of a run, and which checkpoints are damaged')
    .argument('<run>', 'folder of the run, `out` in its configuration')
    .option('--json', 'print JSON')
    .option('--out <file>', 'also write an HTML page with the curves of losses and validation')
    .action(async (run: string, { json, out }: { json?: boolean; out?: string }) => {
      const { formatRun, inspectRun, runPage } = await import('./info');
      const stages = await inspectRun(run);
      if (out !== undefined) (await import('../stages/files')).replaceFile(out, runPage(run, stages));
      print(json ? JSON.stringify(stages, null, 2) : formatRun(stages));
    });

  onStage(
    program,
    'vision',
    'pretrain-vision',
    'Train the vision encoder on images and their alt texts (stage 1)',
    (options) => recipe().then(({ pretrainVision }) => pretrainVision(options)),
  );
  onStage(program, 'lm', 'pretrain-lm', 'Train the tokenizer and the language model on text (stage 2)', (options) =>
    recipe().then(({ pretrainLanguage }) => pretrainLanguage(options)),
  );
  onStage(
    program,
    'flamingo',
    'train',
    'Train the resampler and gated cross-attention, with both models frozen (stage 3)',
    (options) => recipe().then(({ trainJoint }) => trainJoint(options)),
  );

  onConfig(program, 'eval', 'Ask the trained model few-shot questions with real, blank and swapped images')
    .option('--split <name>', 'split to ask about, if the data has several')
    .option('--json', 'print JSON')
    .action(async (file: string, flags: RunFlags & { split?: string }) => {
      const { config } = await start('eval', file, flags);
      const { openData } = await import('../data/data-kinds');
      const { evaluate, formatEvaluation } = await import('../eval/evaluate');
      const data = await openData(config);
      try {
        const questions = await data.questions({ ...config.eval, split: flags.split });
        for (const warning of questions.warnings) process.stderr.write(`Warning: ${warning}\n`);
        const { openJoint } = await recipe();
        const evaluation = await evaluate(await openJoint(config, data), questions, config.eval);
        print(flags.json ? JSON.stringify(evaluation, null, 2) : formatEvaluation(evaluation));
      } finally {
        reportSkipped(data);
        await data.close();
      }
    });

  onConfig(program, 'generate', 'Answer a question about an image, given a few examples')
    .requiredOption('--image <file>', 'image to ask about')
    .option('--example <file=answer>', 'image and its answer, as an example of what to answer; repeatable', collect)
    .option('--candidates <a,b,...>', 'answers to choose from instead of generating text', list)
    .option('--json', 'print JSON, with the probability of each candidate')
    .addHelpText(
      'after',
      '\nExample:\n  flamingo generate my.yaml --image sky.jpg --example grass.jpg=green --example rose.jpg=red --candidates red,green,blue',
    )
    .action(async (file: string, flags: RunFlags & { image: string; example?: string[]; candidates?: string[] }) => {
      const { config } = await start('generate', file, flags);
      const answer = await (await import('../eval/few-shot-answer')).answerPrompt(config, flags);
      if (flags.json) return print(JSON.stringify(answer, null, 2));
      if (answer.answer === '') process.stderr.write('The model generated an empty answer.\n');
      print(answer.answer);
    });

  program
    .command('bench')
    .description('Time training, decoding and vision encoders')
    .argument('[workload...]', 'names of workloads (default: all)')
    .option('--specs <file>', 'JSON file that defines workloads (default: the bundled one)')
    .addOption(
      new Option(
        '--precision <type>',
        'precision of frozen weights; bf16 also rounds the inputs of large matrix products to bfloat16',
      )
        .choices(['fp32', 'bf16', 'int8'])
        .default('fp32'),
    )
    .option(
      '--threads <n>',
      'threads of the native backend (default: OMP_NUM_THREADS, or all cores)',
      wholeNumberFrom(1),
    )
    .option('--seconds <s>', 'seconds to time each workload; times at least three steps', wholeNumberFrom(0), 10)
    .addOption(
      new Option('--backend <name>', 'backend; auto selects the fastest that works').choices(BACKENDS).default('auto'),
    )
    .option('--roofline', 'measure the peak speed of matrix products and the memory bandwidth of this machine')
    .option('--profile', 'show time and calls by kernel, and which calls fell back to JavaScript')
    .option('--json', 'print a line of JSON for each workload')
    .action(async (asked: string[], flags: BenchFlags, command: Command) => {
      const given = command.parent!.args.filter((arg) => arg !== 'bench' && !asked.includes(arg));
      process.exitCode = await (await import('../bench/command')).runBench(asked, flags, given);
    });

  program
    .command('plan')
    .description("Print the parameters, memory and compute of the paper's models")
    .argument('<preset>', 'size of the model: 3b, 9b or 80b')
    .option('--devices <n>', 'number of accelerators that share an update', wholeNumberFrom(1), 1)
    .option('--json', 'print JSON')
    .action(async (preset: string, { devices, json }: { devices: number; json?: boolean }) => {
      const { formatPlan, planTraining } = await import('../bench/plan');
      const plan = planTraining(preset, devices);
      print(json ? JSON.stringify(plan, null, 2) : formatPlan(plan));
    });

  for (const add of more) add(program);
  const data = program.command('data').description('Create, check and inspect training data');
  addDatasetCommands(data);
  addExtractCommands(data);

  return program;
}

/** Adds a command that reads a configuration. */
function onConfig(program: Command, name: string, description: string): Command {
  return program
    .command(name)
    .description(description)
    .argument('<config>', 'YAML file; flamingo init writes one')
    .option(...SET);
}

/** Adds the command of a training stage. */
function onStage(
  program: Command,
  name: StageName,
  command: ConfigCommand,
  description: string,
  run: (options: RunOptions) => Promise<unknown>,
): void {
  onConfig(program, command, description)
    .option(...FRESH)
    .option('--json', 'print the metrics of each step as a line of JSON')
    .action(async (file: string, flags: RunFlags) => {
      const config = await readConfig(command, file, flags);
      const { checkStage } = await recipe();
      const summary = checkStage(config, name, flags.fresh);
      if (summary) {
        const { steps, patience } = summary;
        process.stderr.write(
          patience === undefined
            ? `${command}: all ${steps} steps are done. Raise ${name}.train.steps to add steps, or start over with --fresh.\n`
            : `${command}: ended early after ${steps} steps. Raise validation.patience to resume, or start over with --fresh.\n`,
        );
        return;
      }
      await useConfigured(config);
      const stop = new StopSignal();
      try {
        const data = await (await import('../data/data-kinds')).openData(config);
        try {
          const onStep = flags.json ? (metrics: object) => print(JSON.stringify(metrics)) : undefined;
          await run({ config, data, stop, fresh: flags.fresh, onStep });
        } finally {
          reportSkipped(data);
          await data.close();
        }
      } finally {
        stop.dispose();
      }
    });
}

async function readConfig(command: ConfigCommand, file: string, flags: Pick<RunFlags, 'set'>): Promise<Config> {
  return (await import('../config/config')).loadConfig(file, flags.set, command);
}

/** Selects the backend and the precision of a configuration. */
async function useConfigured(config: Config): Promise<BackendChoice> {
  const backend = await useBackend(config.backend);
  process.stderr.write(`${backend.summary}\n`);
  await (await import('../config/precision')).usePrecision(config.precision, backend.name);
  return backend;
}

/** Reads the configuration and selects its backend. */
async function start(command: ConfigCommand, file: string, flags: Pick<RunFlags, 'set'>): Promise<{ config: Config }> {
  const config = await readConfig(command, file, flags);
  await useConfigured(config);
  return { config };
}

/** Reports how many images could not be read, and names the first ones. */
function reportSkipped({ skipped }: TrainingData): void {
  if (skipped.length === 0) return;
  const named = skipped.slice(0, SKIPPED_NAMED).map((line) => `  ${line}\n`);
  const more = skipped.length > SKIPPED_NAMED ? `  and ${skipped.length - SKIPPED_NAMED} more\n` : '';
  const count =
    skipped.length === 1 ? '1 image could not be read and was' : `${skipped.length} images could not be read and were`;
  process.stderr.write(`${count} skipped:\n${named.join('')}${more}`);
}

/** Adds which options are required, which Commander does not show. */
function describeOption(option: Option): string {
  const description = new Help().optionDescription(option);
  return option.mandatory ? `${description} (required)` : description;
}

function collect(value: string, before: string[] = []): string[] {
  const at = value.lastIndexOf('=');
  if (at < 1 || at === value.length - 1) {
    throw new InvalidArgumentError('It must be FILE=ANSWER, for example: --example cat.png=animal');
  }
  return [...before, value];
}

function list(value: string): string[] {
  const answers = value.split(',').map((answer) => answer.trim());
  if (answers.length < 2 || answers.includes('')) {
    throw new InvalidArgumentError('It must be two or more answers separated by commas: --candidates red,blue');
  }
  return answers;
}

function setKey(value: string, before: Record<string, unknown> = {}): Record<string, unknown> {
  const at = value.indexOf('=');
  if (at < 1) throw new InvalidArgumentError('It must be KEY=VALUE, for example: --set flamingo.train.steps=10');
  const text = value.slice(at + 1);
  let parsed: unknown = text;
  try {
    parsed = JSON.parse(text);
  } catch {
    // Not JSON: the value is the text itself.
  }
  return { ...before, [value.slice(0, at)]: parsed };
}

function packageVersion(): string {
  return (JSON.parse(readFileSync(PACKAGE, 'utf8')) as { version: string }).version;
}

export function print(text: string): void {
  process.stdout.write(`${text}\n`);
}
