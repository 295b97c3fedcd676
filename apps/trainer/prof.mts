import { useBackend, Random } from '@flamingo-ts/kernels';
import * as tf from '@tensorflow/tfjs-core';
import { valueAndGrads } from '@flamingo-ts/optim';
import { loadConfig } from './src/config';
import { EmojiWorld } from './src/emoji/world';
import { EmojiData } from './src/emoji/data';
import { trainTokenizer, LanguageModel, languageObjective } from './src/lm';
import { VisionTower, contrastiveObjective } from './src/vision';
await useBackend((process.argv[2] ?? 'native') as any);
const config = loadConfig('apps/trainer/configs/quickstart.yaml');
const world = await EmojiWorld.create({ seed: 0, maxConcepts: 100 });
const data = new EmojiData(world);
async function prof(name, obj) {
  for (let k = 0; k < 2; k++) {
    const ls = await obj.prepare(k);
    if (k == 0) {
      const { value, grads } = valueAndGrads(ls.losses[0].loss, obj.params);
      tf.dispose([value, grads]);
      continue;
    }
    const e: any = tf.engine();
    const orig = e.runKernel.bind(e);
    const stat = new Map();
    let depth = 0;
    const stack: any[] = [];
    e.runKernel = (n, i, a) => {
      const t = performance.now();
      stack.push(0);
      const r = orig(n, i, a);
      const dt = performance.now() - t;
      const child = stack.pop();
      if (stack.length) stack[stack.length - 1] += dt;
      const s = stat.get(n) ?? { n: 0, self: 0 };
      s.n++;
      s.self += dt - child;
      stat.set(n, s);
      return r;
    };
    const t = performance.now();
    const { value, grads } = valueAndGrads(ls.losses[0].loss, obj.params);
    value.dataSync();
    console.log(name, 'total', (performance.now() - t).toFixed(0));
    e.runKernel = orig;
    for (const [n, s] of [...stat].sort((a, b) => b[1].self - a[1].self).slice(0, 16))
      console.log('  ', n.padEnd(32), s.n, s.self.toFixed(1));
    tf.dispose([value, grads]);
  }
}
if (process.argv[3] !== 'vision') {
  const tok = trainTokenizer(config, data);
  const lm = LanguageModel.create(config.lm.model, tok, new Random(0));
  await prof('lm', languageObjective(lm, config, data));
}
if (process.argv[3] !== 'lm') {
  const tower = VisionTower.create(config.vision.model, config.vision.jointSize, new Random(0));
  await prof('vision', contrastiveObjective(tower, config, data));
}
