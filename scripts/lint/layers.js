import { readdirSync, readFileSync } from 'node:fs';
import { builtinModules } from 'node:module';
import path from 'node:path';

/**
 * The layers that each layer may import. A package names its layer by the tag `layer:x` under `nx` in its package.json.
 * Packages of one layer do not import each other.
 */
export const allowedImports = {
  random: [],
  kernels: ['random'],
  backend: ['kernels'],
  core: ['kernels'],
  module: ['core', 'kernels'],
  model: ['module', 'core', 'kernels', 'random'],
  data: ['random'],
  app: ['model', 'data', 'module', 'core', 'backend', 'kernels', 'random'],
  testing: ['core', 'kernels'],
};

const root = path.resolve(import.meta.dirname, '../..');

/** Every package of the workspace: { name, layer, folder, declared }. */
export function workspacePackages() {
  return ['packages', 'apps'].flatMap((parent) =>
    readdirSync(path.join(root, parent), { withFileTypes: true })
      .filter((entry) => entry.isDirectory())
      .map((entry) => {
        const folder = path.join(root, parent, entry.name);
        const json = JSON.parse(readFileSync(path.join(folder, 'package.json'), 'utf8'));
        const tag = json.nx?.tags?.find((tag) => tag.startsWith('layer:'));
        const layer = tag?.slice('layer:'.length);
        if (!Object.hasOwn(allowedImports, layer ?? '')) {
          throw new Error(
            `${folder}/package.json must have one of the nx tags layer:${Object.keys(allowedImports).join(', layer:')}`,
          );
        }
        const declared = Object.keys({ ...json.dependencies, ...json.peerDependencies });
        return { name: json.name, layer, folder, declared };
      }),
  );
}

/** The reason why `file` must not import `specifier`, or undefined if it may. */
export function forbidden(packages, file, specifier) {
  const owner = packages.find(({ folder }) => file.startsWith(folder + path.sep));
  const isTest = /\.test\.ts$/.test(file) || /(^|[\\/])test[\\/]/.test(path.relative(owner?.folder ?? root, file));

  if (specifier.startsWith('.')) {
    const target = path.resolve(path.dirname(file), specifier);
    const other = packages.find(
      ({ folder }) => folder !== owner?.folder && (target + path.sep).startsWith(folder + path.sep),
    );
    // Scripts may share the test helpers of a package, which have no package name.
    if (other && !owner && isBelow(path.join(other.folder, 'test'), target)) return undefined;
    if (other) return `reaches into another package: import ${other.name} by its name`;
    if (owner && !isBelow(owner.folder, target))
      return 'is outside the package, so it is missing once the package is published';
    return undefined;
  }
  // A subpath import, defined in the package.json of the file's own package.
  if (specifier.startsWith('#')) return undefined;
  if (specifier.startsWith('node:') || builtinModules.includes(specifier)) return undefined;

  const name = specifier.split('/', specifier.startsWith('@') ? 2 : 1).join('/');
  const target = packages.find((p) => p.name === name);
  if (target && specifier !== name && specifier !== `${name}/package.json`)
    return `is a deep import: ${name} has one entry`;
  if (!owner || name === owner.name) return undefined;

  // Tests may import any package, for example backends to run on.
  if (isTest) return undefined;
  if (target?.layer === 'testing') return 'is for tests only';
  if (target && !allowedImports[owner.layer].includes(target.layer)) {
    return `must not be imported here: layer '${owner.layer}' may import ${listed(allowedImports[owner.layer])}, but ${name} is '${target.layer}'`;
  }
  if (owner.layer === 'data' && name.startsWith('@tensorflow/'))
    return 'is a tensor library: data packages use plain typed arrays';
  if (!owner.declared.includes(name)) return `is not in dependencies or peerDependencies of ${owner.name}`;
  return undefined;
}

function isBelow(folder, target) {
  return !path.relative(folder, target).startsWith('..');
}

function listed(layers) {
  return layers.length === 0 ? 'no other package' : layers.map((layer) => `'${layer}'`).join(', ');
}

/** ESLint rule `workspace/layers`: applies the rules above to every form of import. */
export const layers = {
  meta: { type: 'problem', schema: [], messages: { forbidden: "'{{specifier}}' {{why}}." } },
  create(context) {
    const packages = workspacePackages();
    const check = (source) => {
      if (source?.type !== 'Literal' || typeof source.value !== 'string') return;
      const why = forbidden(packages, context.filename, source.value);
      if (why) context.report({ node: source, messageId: 'forbidden', data: { specifier: source.value, why } });
    };
    return {
      ImportDeclaration: (node) => check(node.source),
      ExportNamedDeclaration: (node) => check(node.source),
      ExportAllDeclaration: (node) => check(node.source),
      ImportExpression: (node) => check(node.source),
      TSImportType: (node) => check(node.source ?? node.argument?.literal),
      'CallExpression[callee.name="require"]': (node) => check(node.arguments[0]),
    };
  },
};
