import { Converter } from 'typedoc';

/** TypeDoc plugin: names each module after its package, `kernels/src` after `@flamingo-ts/kernels`. */
export function load(app) {
  app.converter.on(Converter.EVENT_RESOLVE_BEGIN, ({ project }) => {
    for (const module of project.children ?? []) module.name = module.name.replace(/^(.*)\/src$/, '@flamingo-ts/$1');
  });
}
