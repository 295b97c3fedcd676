// In a clone of the repository workers run from the sources. A worker does not inherit its parent's TypeScript loader, so
// it registers its own. Published packages use worker.js instead.
// eslint-disable-next-line workspace/layers
import { register } from 'tsx/esm/api';

register();
await import('./worker.ts');
