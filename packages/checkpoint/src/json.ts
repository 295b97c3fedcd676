/** How a Git LFS pointer starts: the text that replaces a file that was not downloaded. */
const pointerStart = 'version https://git-lfs.github.com/spec/';

/**
 * Makes sure that a file is not a Git LFS pointer.
 *
 * @param start the first bytes of the file, at least 8
 * @throws Error naming the file
 */
export function expectNoLfsPointer(start: Uint8Array, what: string): void {
  const text = new TextDecoder().decode(start.subarray(0, pointerStart.length));
  if (text.length < 8 || !pointerStart.startsWith(text)) return;
  throw new Error(
    `${what} is a Git LFS pointer, not the file itself. Run "git lfs pull" in the repository it came from, or download ` +
      'the file.',
  );
}

/**
 * Reads a JSON file as Python's json module does: a byte order mark is skipped, and `NaN`, `Infinity` and `-Infinity` are
 * numbers. Hugging Face writes them in config.json.
 *
 * @param what the file, for error messages
 * @throws Error naming the file, for content that is not JSON and for Git LFS pointers
 */
export function parseJson(bytes: Uint8Array, what: string): unknown {
  expectNoLfsPointer(bytes, what);
  try {
    // The decoder skips a byte order mark.
    const text = new TextDecoder('utf-8', { fatal: true }).decode(bytes);
    const plain = /NaN|Infinity/.test(text) ? withoutNonFinite(text) : text;
    return JSON.parse(
      plain,
      plain === text ? undefined : (_, value: unknown) => (value === NAN ? NaN : value),
    ) as unknown;
  } catch (cause) {
    throw new Error(`${what} is not valid JSON (${(cause as Error).message}). Fetch or write the file again.`, {
      cause,
    });
  }
}

const NAN = '\0NaN';

/** Equivalent JSON without bare `NaN` and `Infinity`; strings do not change. */
function withoutNonFinite(text: string): string {
  return text.replace(/"[^"\\]*(?:\\[^][^"\\]*)*"|NaN|Infinity/g, (token) => {
    if (token === 'NaN') return JSON.stringify(NAN);
    return token === 'Infinity' ? '1e999' : token;
  });
}
