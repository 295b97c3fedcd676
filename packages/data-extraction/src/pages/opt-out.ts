/** Our name in robots.txt and opt-out headers. */
export const AGENT = 'flamingo-ts';

/**
 * Whether the headers of a response opt out of machine learning or indexing: TDMRep's `tdm-reservation: 1`, or
 * `X-Robots-Tag` with noai, noimageai, noindex, noimageindex or none, for all agents or for `flamingo-ts`.
 *
 * The name of another agent applies to the next directive only. Several headers are joined by commas, so its scope is
 * ambiguous, and losing an image is better than using one against its owner's will.
 *
 * @param header returns a header by its name in lower case; several of a name are joined by commas
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
