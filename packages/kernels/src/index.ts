export { useBackend, type BackendChoice, type BackendName, type RejectedBackend } from './backend';
export { fusedOp, fusedOpNames, type FusedOpDefinition, type OpInputs } from './fused-op';
export { expectShape } from './shape';
export { FrozenMatrix, type FrozenPrecision, type PackedMatrix, type PackingBackend } from './frozen-matrix';
export {
  countParams,
  disposeParams,
  loadState,
  namedParams,
  stateOf,
  variables,
  type LoadOptions,
  type Module,
  type Parameter,
  type ParamTree,
  type StateTensor,
} from './params';
export { constantVariable, normalVariable, Random } from './random';
