import { spawn } from 'node:child_process';

/** Frames of a clip and their rate. Paper: 8 at one per second (appendix B.1.2). */
const FRAMES = 8;
const FRAMES_PER_SECOND = 1;
/** Wider frames are scaled down, because no encoder uses more. */
const MAX_WIDTH = 640;
const TIMEOUT_MS = 60_000;
const MAX_OUTPUT_BYTES = 2 ** 28;
/** Allowed containers. Excludes playlists, with which ffmpeg would open other files. */
const CONTAINERS = 'mov,matroska,avi,mpegts,mpeg,mpegvideo,flv,ogg,gif';

export const VIDEO_EXTENSIONS = ['mp4', 'm4v', 'mov', 'webm', 'mkv', 'avi', 'mpg', 'mpeg', 'ts', 'flv', 'ogv'];

/**
 * Returns the first eight frames of a video, one per second, as PNG. Uses the system's ffmpeg.
 *
 * @throws MissingFfmpeg if ffmpeg is not installed
 * @throws Error with ffmpeg's message if the video is unreadable
 */
export async function videoFrames(path: string): Promise<Buffer[]> {
  // Takes the frame at each full second. By default ffmpeg takes those nearest to the half seconds, and none of a short
  // clip.
  const filter = `fps=${FRAMES_PER_SECOND}:round=up,scale='min(${MAX_WIDTH},iw)':-2`;
  const input = ['-protocol_whitelist', 'file', '-format_whitelist', CONTAINERS, '-i', `file:${path}`];
  const output = [
    '-an',
    '-sn',
    '-vf',
    filter,
    '-frames:v',
    String(FRAMES),
    '-f',
    'image2pipe',
    '-c:v',
    'png',
    'pipe:1',
  ];
  const frames = splitPngs(await run('ffmpeg', ['-nostdin', '-v', 'error', ...input, ...output]));
  if (frames.length === 0) throw new Error('no frames');
  return frames;
}

/** Returns the output of a command. Kills it if it takes too long or writes too much. */
function run(command: string, args: readonly string[]): Promise<Buffer> {
  return new Promise((resolve, reject) => {
    const child = spawn(command, args, {
      stdio: ['ignore', 'pipe', 'pipe'],
      timeout: TIMEOUT_MS,
      killSignal: 'SIGKILL',
    });
    const chunks: Buffer[] = [];
    let bytes = 0;
    let stderr = '';
    child.stdout.on('data', (chunk: Buffer) => {
      chunks.push(chunk);
      bytes += chunk.length;
      if (bytes > MAX_OUTPUT_BYTES) child.kill('SIGKILL');
    });
    child.stderr.on('data', (chunk: Buffer) => (stderr = (stderr + chunk.toString()).slice(0, 1000)));
    child.on('error', (error: NodeJS.ErrnoException) => {
      if (error.code !== 'ENOENT') return reject(error);
      reject(
        new MissingFfmpeg(
          'Reading videos requires ffmpeg, which is not on the PATH. Install it: apt-get install ffmpeg.',
        ),
      );
    });
    child.on('close', (code, signal) => {
      if (code === 0) return resolve(Buffer.concat(chunks));
      reject(new Error(signal ? 'took too long or wrote too much' : stderr.trim().split('\n')[0] || `status ${code}`));
    });
  });
}

/** ffmpeg is missing: an error of the machine, not of a file. */
export class MissingFfmpeg extends Error {}

/** Splits concatenated PNG files. */
function splitPngs(bytes: Buffer): Buffer[] {
  const frames: Buffer[] = [];
  const signature = 8;
  for (let start = 0; start + signature < bytes.length;) {
    let at = start + signature;
    // A chunk: length, type, data, checksum.
    while (at + 12 <= bytes.length && bytes.toString('latin1', at + 4, at + 8) !== 'IEND')
      at += bytes.readUInt32BE(at) + 12;
    frames.push(bytes.subarray(start, at + 12));
    start = at + 12;
  }
  return frames;
}
