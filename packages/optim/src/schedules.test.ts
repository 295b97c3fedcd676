import { expect, it } from 'vitest';
import { constantSchedule, cosineSchedule, linearSchedule, switchAt, warmUp } from './schedules';

const at = (schedule: (step: number) => number, steps: readonly number[]) => steps.map((s) => +schedule(s).toFixed(12));

it('constant', () => expect(at(constantSchedule(0.1), [0, 1000])).toEqual([0.1, 0.1]));

it('linear falls to its last value and stays there', () => {
  expect(at(linearSchedule(1, 0.2, 4), [0, 1, 2, 4, 5, 1e9])).toEqual([1, 0.8, 0.6, 0.2, 0.2, 0.2]);
});

it('cosine is at its mean half way', () => {
  expect(at(cosineSchedule(1, 0, 10), [0, 5, 10, 11])).toEqual([1, 0.5, 0, 0]);
  expect(cosineSchedule(1, 0, 4)(1)).toBeCloseTo((1 + Math.SQRT1_2) / 2, 12);
});

it('a warm-up starts at 0 and joins the schedule that follows', () => {
  expect(at(warmUp(4, linearSchedule(1, 0, 2)), [0, 1, 3, 4, 5, 6])).toEqual([0, 0.25, 0.75, 1, 0.5, 0]);
  expect(at(warmUp(0, constantSchedule(1)), [0])).toEqual([1]);
});

it('one schedule after another, the second counting from the change', () => {
  expect(at(switchAt(3, constantSchedule(2), linearSchedule(2, 0, 2)), [0, 2, 3, 4, 5])).toEqual([2, 2, 2, 1, 0]);
});
