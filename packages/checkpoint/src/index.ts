export type { Dtype, TensorData } from './dtypes';
export {
  parseSafetensors,
  serializeSafetensors,
  type Safetensors,
  type StoredTensor,
  type TensorToStore,
} from './safetensors';
