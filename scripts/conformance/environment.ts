/** Registers the backend to test. Import it before the test files. */
import '@tensorflow/tfjs-backend-cpu';
import '@tensorflow/tfjs-core/dist/public/chained_ops/register_all_chained_ops';
import '@tensorflow/tfjs-core/dist/register_all_gradients';
import { setTestEnvs } from '@tensorflow/tfjs-core/dist/jasmine_util';
import { registerNativeBackend } from '@flamingo-ts/backend-native';

const backend = process.env['CONFORMANCE_BACKEND']!;
if (backend === 'native') registerNativeBackend();
setTestEnvs([{ name: backend, backendName: backend, isDataSync: true }]);
