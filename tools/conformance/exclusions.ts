/** Tests that say nothing about a backend here, each group with the reason. */
export const EXCLUSIONS: readonly { readonly test: RegExp; readonly reason: string }[] = [];
