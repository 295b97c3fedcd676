// Under Node ESM, bare @tensorflow/tfjs-core registers no gradients; loading the layers package registers all of them.
import '@tensorflow/tfjs-layers';
