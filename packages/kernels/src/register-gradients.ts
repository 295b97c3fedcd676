// Bare @tensorflow/tfjs-core registers no gradients. The `imports` of package.json name what registers them: in the
// workspace @tensorflow/tfjs-layers, which Node can import; in a build tfjs-core's own file, bundled by tsup.config.ts.
import '#register-gradients';
