/** @throws Error naming the first key of a configuration that is not among those known */
export function expectKeys(what: string, config: object, known: readonly string[]): void {
  const unknown = Object.keys(config).find((key) => !known.includes(key));
  if (unknown !== undefined) {
    throw new Error(`${what}: expected only the config keys ${known.join(', ')}, got ${unknown}. Remove or rename it.`);
  }
}

/** @throws Error naming the first of these keys whose value is no whole number of at least 1 */
export function expectSizes<K extends string>(
  what: string,
  config: Readonly<Partial<Record<K, number>>>,
  sizes: readonly K[],
): void {
  for (const key of sizes) {
    const value = config[key];
    if (!Number.isInteger(value) || value! < 1) {
      throw new Error(`${what}: ${key} must be a whole number of at least 1, got ${value}. Set it in the config.`);
    }
  }
}
