import { expect, it } from 'vitest';
import { checkConfig, checkValue, rule, type ConfigRules } from './check-config';

type Positions =
  { readonly kind: 'learned'; readonly rows: number } | { readonly kind: 'alibi'; readonly slopes: readonly number[] };

interface TowerConfig {
  readonly width: number;
  readonly numClasses: number;
  readonly depths: readonly number[];
  readonly mean: readonly [number, number, number];
  readonly activation: 'relu' | 'gelu';
  readonly finalNorm: boolean;
  readonly dropRate?: number;
  readonly norm: { readonly kind: 'layer' | 'rms'; readonly epsilon: number };
  readonly positions: Positions;
}

const RULES: ConfigRules<TowerConfig> = {
  width: rule.size,
  numClasses: rule.integer({ min: 0 }),
  depths: rule.list(rule.size),
  mean: rule.list(rule.number(), 3),
  activation: rule.oneOf(['relu', 'gelu']),
  finalNorm: rule.boolean,
  dropRate: rule.optional(rule.number({ min: 0, below: 1 })),
  norm: rule.object({ kind: rule.oneOf(['layer', 'rms']), epsilon: rule.number({ above: 0 }) }),
  positions: rule.kinds<Positions>({ learned: { rows: rule.size }, alibi: { slopes: rule.list(rule.number()) } }),
};

const good: TowerConfig = {
  width: 8,
  numClasses: 0,
  depths: [1, 2],
  mean: [0.5, 0.5, 0.5],
  activation: 'gelu',
  finalNorm: true,
  norm: { kind: 'rms', epsilon: 1e-6 },
  positions: { kind: 'alibi', slopes: [0.5] },
};

const check = (changes: object) => () => checkConfig('Tower', { ...good, ...changes }, RULES);

it('accepts a whole config, with optional keys present, absent or undefined', () => {
  expect(check({})).not.toThrow();
  expect(check({ dropRate: 0 })).not.toThrow();
  expect(check({ dropRate: undefined })).not.toThrow();
  expect(check({ positions: { kind: 'learned', rows: 4 } })).not.toThrow();
});

it.each<[object, string]>([
  [{ heads: 2 }, 'heads is not a known key, expected only width, numClasses, depths,'],
  [{ heads: 2 }, 'Remove it.'],
  [{ witdh: 2 }, 'Did you mean width?'],
  [{ numclasses: 2 }, 'Did you mean numClasses?'],
  [JSON.parse('{"__proto__": 1}') as object, '__proto__ is not a known key'],
  [{ constructor: 1 }, 'constructor is not a known key'],
  [{ width: undefined }, 'width must be a whole number of at least 1, got undefined. Add it.'],
  [{ width: 0 }, 'width must be a whole number of at least 1, got 0.'],
  [{ width: 1.5 }, 'got 1.5'],
  [{ width: NaN }, 'got NaN'],
  [{ width: 1e300 }, 'got 1e+300'],
  [{ width: null }, 'got null'],
  [{ width: '8' }, 'got "8". Remove the quotes if it is a number.'],
  [{ width: [8] }, 'got [8]'],
  [{ width: {} }, 'got an object with no keys'],
  [{ numClasses: -1 }, 'numClasses must be a whole number of at least 0, got -1'],
  [{ depths: [1, 0] }, 'depths[1] must be a whole number of at least 1, got 0'],
  [{ depths: 3 }, 'depths must be an array, each element a whole number of at least 1, got 3'],
  [{ mean: [1, 2] }, 'mean must be an array of 3 elements, each a finite number, got [1, 2]'],
  [{ mean: [1, 2, Infinity] }, 'mean[2] must be a finite number, got Infinity'],
  [{ activation: 'GELU' }, 'activation must be one of relu, gelu, got "GELU"'],
  [{ finalNorm: 'yes' }, 'finalNorm must be true or false, got "yes"'],
  [{ dropRate: 1 }, 'dropRate must be a number of at least 0 and less than 1, got 1'],
  [{ norm: 'rms' }, 'norm must be an object with kind, epsilon, got "rms"'],
  [{ norm: { kind: 'rms', epsilon: 0 } }, 'norm.epsilon must be a finite number greater than 0, got 0'],
  [{ norm: { kind: 'rms', epsilon: 1, eps: 1 } }, 'norm.eps is not a known key, expected only kind, epsilon'],
  [{ positions: { kind: 'rope' } }, 'positions.kind must be one of learned, alibi, got "rope"'],
  [{ positions: { kind: 'learned', slopes: [] } }, 'positions.slopes is not a known key, expected only kind, rows'],
  [{ positions: { kind: 'toString' } }, 'positions.kind must be one of'],
])('rejects %j', (changes, message) => {
  expect(() => checkConfig('Tower', Object.assign(Object.create(null), good, changes) as TowerConfig, RULES)).toThrow(
    message,
  );
});

it('names the class, and rejects a config that is not an object', () => {
  expect(check({ width: 0 })).toThrow(/^Tower: width must be/);
  for (const config of [undefined, null, 8, []]) {
    expect(() => checkConfig('Tower', config as never, RULES)).toThrow('Tower: expected an object, got');
  }
});

it('checks one argument', () => {
  expect(() => checkValue('linear', 'activation', 'tanh' as string, rule.optional(rule.oneOf(['relu'])))).toThrow(
    'linear: activation must be one of relu, got "tanh".',
  );
  expect(() => checkValue('linear', 'activation', undefined, rule.optional(rule.oneOf(['relu'])))).not.toThrow();
});
