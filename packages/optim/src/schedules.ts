import { checkValue, rule } from '@flamingo-ts/kernels';

/** A learning rate for each step; steps count from 0. */
export type Schedule = (step: number) => number;

/** The same rate at every step. */
export function constantSchedule(value: number): Schedule {
  checkValue('constantSchedule', 'value', value, RATE);
  return () => value;
}

/** Changes linearly from `from` to `to` over `steps` steps, then stays at `to`. */
export function linearSchedule(from: number, to: number, steps: number): Schedule {
  checkLine('linearSchedule', from, to, steps);
  return (step) => (step >= steps ? to : from + (to - from) * (step / steps));
}

/** Follows half a cosine from `from` to `to` over `steps` steps, then stays at `to`. */
export function cosineSchedule(from: number, to: number, steps: number): Schedule {
  checkLine('cosineSchedule', from, to, steps);
  return (step) => (step >= steps ? to : to + (from - to) * 0.5 * (1 + Math.cos((Math.PI * step) / steps)));
}

/** Follows one schedule for the first `steps` steps, then another, whose steps count from that point. */
export function switchAt(steps: number, first: Schedule, then: Schedule): Schedule {
  checkValue('switchAt', 'steps', steps, STEPS);
  return (step) => (step < steps ? first(step) : then(step - steps));
}

/** Rises linearly from 0 at the first step to the start of `then`, over `steps` steps, and continues with `then`. */
export function warmUp(steps: number, then: Schedule): Schedule {
  return switchAt(steps, linearSchedule(0, then(0), steps), then);
}

/**
 * The rate of a step.
 *
 * @throws Error if a schedule returns anything but a finite number of at least 0
 */
export function rateAt(rate: number | Schedule, step: number): number {
  if (typeof rate === 'number') return rate;
  const value = rate(step);
  checkValue('optim', `the learning rate of step ${step}`, value, RATE);
  return value;
}

const RATE = rule.number({ min: 0 });
const STEPS = rule.number({ min: 0 });

function checkLine(what: string, from: number, to: number, steps: number): void {
  checkValue(what, 'from', from, RATE);
  checkValue(what, 'to', to, RATE);
  checkValue(what, 'steps', steps, STEPS);
}
