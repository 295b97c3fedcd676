/** Resolves packages of this workspace to their sources, as `node --conditions=@flamingo-ts/source` does. */
export function resolve(specifier, context, nextResolve) {
  return nextResolve(specifier, { ...context, conditions: ['@flamingo-ts/source', ...context.conditions] });
}
