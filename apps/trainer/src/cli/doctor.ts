import { spawnSync } from 'node:child_process';
import { cpus, totalmem } from 'node:os';
import { useBackend, type BackendName } from '@flamingo-ts/kernels';
import * as tf from '@tensorflow/tfjs-core';
import sharp from 'sharp';

/** Result of one check. */
export interface Finding {
  readonly what: string;
  readonly ok: boolean;
  readonly detail: string;
}

/** Describes this machine in reports, to put timings into context. */
export function machineSummary(): string {
  const cores = cpus();
  const memory = (totalmem() / 2 ** 30).toFixed(0);
  return `${cores[0]?.model.trim() ?? 'unknown processor'}, ${cores.length} cores, ${memory} GiB, Node ${process.version}`;
}

/** Checks everything that training requires on this machine. Loads each backend and computes a product. */
export async function examine(): Promise<Finding[]> {
  const findings: Finding[] = [{ what: 'machine', ok: true, detail: machineSummary() }];
  const [major = 0, minor = 0] = process.versions.node.split('.').map(Number);
  const nodeFits = major > 20 || (major === 20 && minor >= 19);
  findings.push({
    what: 'node',
    ok: nodeFits,
    detail: nodeFits ? process.version : `${process.version}, but 20.19 or later is required: install a newer Node`,
  });
  const names: BackendName[] = ['native', 'tensorflow', 'wasm', 'cpu'];
  let fastest: BackendName | undefined;
  for (const name of names) {
    const finding = await examineBackend(name);
    if (finding.ok) fastest ??= name;
    findings.push(finding);
  }
  findings.push({
    what: 'selected by auto',
    ok: fastest !== undefined,
    detail: fastest ?? 'no backend works on this machine',
  });
  findings.push({
    what: 'images',
    ok: true,
    detail: `sharp ${sharp.versions.sharp}, libvips ${sharp.versions.vips}`,
  });
  const ffmpeg = spawnSync('ffmpeg', ['-version'], { encoding: 'utf8' });
  findings.push({
    what: 'ffmpeg',
    ok: ffmpeg.status === 0,
    detail: ffmpeg.status === 0 ? ffmpeg.stdout.split('\n')[0]! : 'not found: install ffmpeg to read video files',
  });
  return findings;
}

async function examineBackend(name: BackendName): Promise<Finding> {
  const what = `backend ${name}`;
  try {
    const { reason } = await useBackend(name);
    const [product] = tf.tidy(() => tf.matMul(tf.tensor2d([[2]]), tf.tensor2d([[3]])).dataSync());
    if (product !== 6) return { what, ok: false, detail: `computes 2 x 3 = ${product}` };
    return { what, ok: true, detail: reason.replace(/^[^;]*; /, '') };
  } catch (error) {
    const detail = (error as Error).message.replace(/^useBackend: backend '\w+' cannot be used: /, '');
    return { what, ok: false, detail };
  }
}
