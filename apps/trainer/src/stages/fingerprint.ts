/** What the result of a stage depends on, as nested objects of plain values. */
export type Fingerprint = Readonly<Record<string, unknown>>;

/** A line for each key whose values differ: `lm.batch: 4 now, 2 before`. */
export function differences(now: unknown, before: unknown, prefix = ''): string[] {
  const [a, b] = [flatten(now, prefix), flatten(before, prefix)];
  const show = (value: string | undefined) => value ?? 'not set';
  return [...new Set([...a.keys(), ...b.keys()])]
    .filter((key) => a.get(key) !== b.get(key))
    .map((key) => `${key}: ${show(a.get(key))} now, ${show(b.get(key))} before`);
}

function flatten(value: unknown, path: string, into = new Map<string, string>()): Map<string, string> {
  if (typeof value === 'object' && value !== null && !Array.isArray(value)) {
    for (const [key, part] of Object.entries(value)) flatten(part, path === '' ? key : `${path}.${key}`, into);
  } else if (value !== undefined) into.set(path, JSON.stringify(value));
  return into;
}
