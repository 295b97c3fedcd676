/**
 * Makes every further use of an object throw, because its memory now belongs to another object. Call it on `this` at the end
 * of `freeze`: all properties, getters and methods throw, including those of its class.
 *
 * @param what begins the error: `'NFNet'`
 */
export function retire(object: object, what: string): void {
  const message = `${what}: used after freeze(). Use the object that freeze() returned.`;
  for (let o = object; o && o !== Object.prototype; o = Object.getPrototypeOf(o) as object) {
    for (const key of Reflect.ownKeys(o)) if (key !== 'constructor') throwOn(object, key, message);
  }
}

/** Makes every use of the containers of a parameter tree throw, naming the parameter. The parameters stay as they are. */
export function retireTree(tree: unknown, isLeaf: (node: unknown) => boolean, name = ''): void {
  if (typeof tree !== 'object' || tree === null || isLeaf(tree)) return;
  for (const [key, { value }] of Object.entries(Object.getOwnPropertyDescriptors(tree))) {
    if (Array.isArray(tree) && key === 'length') continue;
    const path = name ? `${name}.${key}` : key;
    retireTree(value, isLeaf, path);
    throwOn(tree, key, `Parameter ${path}: used after freezing. Use the parameters of the frozen model.`);
  }
}

function throwOn(object: object, key: PropertyKey, message: string): void {
  const fail = () => {
    throw new Error(message);
  };
  Object.defineProperty(object, key, { get: fail, set: fail, configurable: true, enumerable: true });
}
