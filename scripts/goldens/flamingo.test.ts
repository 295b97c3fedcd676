import { fileURLToPath } from 'node:url';
import { describeBackends, loadReference } from '@flamingo-ts/testing';
import { expect, it } from 'vitest';
import type { GoldenCase } from './case';
import { flamingoHandlers } from './flamingo';

const folder = fileURLToPath(new URL('reference', import.meta.url));

/** A case of the whole model. All cases share their parameters, which are in two files. */
function caseOf(name: string): GoldenCase {
  const parameters = {
    ...loadReference(`${folder}/joint`),
    tensors: { ...loadReference(`${folder}/joint`).tensors, ...loadReference(`${folder}/language`).tensors },
  };
  const own = { name, folder, sibling: () => parameters };
  return Object.assign(Object.create(loadReference(`${folder}/${name}`)) as GoldenCase, own);
}

describeBackends('the whole model equals OpenFlamingo', () => {
  it.each(['e2e_forward', 'e2e_closed_gates', 'e2e_generate', 'e2e_scoring'])('%s', async (name) => {
    const c = caseOf(name);
    const handler = flamingoHandlers.find((h) => h.matches(c));
    expect(await handler!.run(c)).toMatchObject({ pass: true });
  });
});
