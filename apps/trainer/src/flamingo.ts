import { main as runCommand } from './cli/commands';
import { registerDataKind } from './data/data-kinds';
import { addQuickstartCommand } from './quickstart/command';
import { emojiDataKind } from './quickstart/emoji/data-kind';

// The composition root: only this file and index.ts connect the core to the quickstart.
registerDataKind(emojiDataKind);

/** Runs the `flamingo` command and returns its exit status. */
export function main(argv: readonly string[]): Promise<number> {
  return runCommand(argv, [addQuickstartCommand]);
}
