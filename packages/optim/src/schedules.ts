/** A learning rate for each step; steps count from 0. */
export type Schedule = (step: number) => number;

/** Always the same. */
export function constantSchedule(value: number): Schedule {
  return () => value;
}

/** A straight line over `steps` steps, then `to` for ever. */
export function linearSchedule(from: number, to: number, steps: number): Schedule {
  return (step) => (step >= steps ? to : from + (to - from) * (step / steps));
}

/** Half a cosine from `from` to `to` over `steps` steps, then `to` for ever. */
export function cosineSchedule(from: number, to: number, steps: number): Schedule {
  return (step) => (step >= steps ? to : to + (from - to) * 0.5 * (1 + Math.cos((Math.PI * step) / steps)));
}

/** One schedule for the first `steps` steps, then another, which counts its steps from there. */
export function switchAt(steps: number, first: Schedule, then: Schedule): Schedule {
  return (step) => (step < steps ? first(step) : then(step - steps));
}

/** A line from 0 up to where `then` starts, over `steps` steps, the very first step having rate 0; then `then`. */
export function warmUp(steps: number, then: Schedule): Schedule {
  return switchAt(steps, linearSchedule(0, then(0), steps), then);
}

/** The rate of a step. */
export function rateAt(rate: number | Schedule, step: number): number {
  return typeof rate === 'number' ? rate : rate(step);
}
