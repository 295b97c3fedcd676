// In a clone of the repository a worker runs from the sources; a worker does not inherit its parent's TypeScript loader.
// What is published has worker.js instead, and never comes here.
// eslint-disable-next-line workspace/layers
import { register } from 'tsx/esm/api';

register();
await import('./worker.ts');
