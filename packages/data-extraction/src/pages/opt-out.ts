/** The name that robots.txt and opt-out headers may call us by. */
export const AGENT = 'flamingo-ts';

/**
 * Whether the headers of an answer keep it from machine learning or from indexes: TDMRep's `tdm-reservation: 1`, or
 * `X-Robots-Tag` with noai, noimageai, noindex, noimageindex or none, for all agents or for `flamingo-ts`.
 *
 * Another agent's name covers the one directive that it stands before. Several headers come joined by commas, so how
 * much more it was meant to cover cannot be told, and one image too few is better than one against its owner's will.
 *
 * @param header gives a header by its name in lower case, several of a name joined by commas
 */
export function optedOut(header: (name: string) => string | undefined): boolean {
  if (
    header('tdm-reservation')
      ?.split(',')
      .some((value) => value.trim() === '1')
  )
    return true;
  const directives = header('x-robots-tag')?.toLowerCase().split(',') ?? [];
  return directives.some((text) => {
    const [directive, agent] = text
      .split(':')
      .map((part) => part.trim())
      .reverse();
    return (
      /^(noai|noimageai|noindex|noimageindex|none)$/.test(directive!) && (!agent || agent === AGENT || agent === '*')
    );
  });
}
