const decoder = new TextDecoder('utf-8', { fatal: true });

/** Decodes UTF-8 and strips a byte order mark. Returns undefined for bytes that are not UTF-8. */
export function decodeUtf8(bytes: Uint8Array): string | undefined {
  try {
    return decoder.decode(bytes);
  } catch {
    return undefined;
  }
}

/** Describes why `JSON.parse` failed. Python writes NaN and Infinity, which JSON does not have. */
export function jsonProblem(error: unknown, text: string): string {
  const { message } = error as Error;
  const [name] = /\b(?:NaN|Infinity)\b/.exec(text) ?? [];
  return name ? `${message}; JSON has no ${name}, write null` : message;
}
