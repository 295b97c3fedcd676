import { useBackend, Random, variables } from '@flamingo-ts/kernels';
import * as tf from '@tensorflow/tfjs-core';
import { valueAndGrads } from '@flamingo-ts/optim';
import { loadConfig } from './src/config';
import { EmojiWorld } from './src/emoji/world';
import { EmojiData } from './src/emoji/data';
import { trainTokenizer, LanguageModel, languageObjective } from './src/lm';
import { VisionTower, contrastiveObjective } from './src/vision';
import { createOptimizer } from './src/optimizer';
const b = await useBackend((process.argv[2] ?? 'native') as any);
console.log(b.summary);
const config = loadConfig('apps/trainer/configs/quickstart.yaml');
const T = (n, t) => console.log(n, (performance.now() - t).toFixed(0), 'ms');
let t = performance.now();
const world = await EmojiWorld.create({ seed: 0, maxConcepts: 200 });
T('world', t);
const data = new EmojiData(world);
t = performance.now();
const tok = trainTokenizer(config, data);
T('tokenizer', t);
const lm = LanguageModel.create(config.lm.model, tok, new Random(0));
console.log('vocab', lm.tokenizer.vocabSize);
const r = new Random(1);
for (let i = 0; i < 6; i++) {
  const p = data.textPage(r);
  console.log(JSON.stringify(p), lm.tokenizer.encode(p).length);
}
for (const w of [' smileys', ' yellow', ' outlined', ' three', ' mip', ' white', 'Output:'])
  console.log(w, lm.tokenizer.encode(w));
async function run(name, obj, cfg, n) {
  const o = createOptimizer(cfg, obj);
  const st = o.init(obj.params);
  for (let s = 0; s < n; s++) {
    const t = performance.now();
    const ls = await obj.prepare(s);
    const t1 = performance.now();
    const { value, grads } = valueAndGrads(ls.losses[0].loss, obj.params);
    const v = value.dataSync()[0];
    const t2 = performance.now();
    o.update(grads, st, obj.params);
    tf.dispose(grads);
    value.dispose();
    console.log(
      name,
      s,
      v.toFixed(3),
      'prep',
      (t1 - t).toFixed(0),
      'grad',
      (t2 - t1).toFixed(0),
      'upd',
      (performance.now() - t2).toFixed(0),
      'tensors',
      tf.memory().numTensors,
    );
  }
}
const n = +(process.argv[3] ?? 5);
await run('lm', languageObjective(lm, config, data), config.lm.train, n);
const tower = VisionTower.create(config.vision.model, config.vision.jointSize, new Random(0));
await run('vision', contrastiveObjective(tower, config, data), config.vision.train, Math.min(n, 4));
