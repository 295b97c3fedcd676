export type { Dtype, FloatDtype, TensorData } from './dtypes';
export {
  parseSafetensors,
  serializeSafetensors,
  type Safetensors,
  type StoredTensor,
  type TensorToStore,
  type WriteOptions,
} from './safetensors';
export {
  openCheckpoint,
  readState,
  writeSafetensors,
  writeSharded,
  type BorrowedBytes,
  type FloatTensor,
  type OpenCheckpoint,
  type OpenOptions,
} from './files';
export { openTorchCheckpoint, type TorchOptions } from './torch';
export { expectNoLfsPointer, parseJson } from './json';
export { mapNames, outputsFirst, type NameRule } from './names';
export { CheckpointFolder, type CheckpointFolderOptions, type SavedCheckpoint } from './folder';
