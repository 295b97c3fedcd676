export { Random } from './random';
export { seededStream, shotStream, shuffledIndex, type RandomStream } from './stream';
