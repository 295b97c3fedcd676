/**
 * Ctrl-C or SIGTERM asks once and is answered at the next step's end, so that a whole checkpoint is written; a second
 * Ctrl-C ends the process at once. A second SIGTERM does not: whatever manages processes may send it to each of them.
 */
export class StopSignal {
  private asked = false;
  private readonly ask = () => {
    if (this.asked) return;
    this.asked = true;
    process.stderr.write('\nStopping after this step and saving; press Ctrl-C again to stop at once.\n');
  };
  private readonly onInterrupt = () => {
    if (this.asked) process.exit(130);
    this.ask();
  };

  constructor() {
    process.on('SIGINT', this.onInterrupt);
    process.on('SIGTERM', this.ask);
  }

  get requested(): boolean {
    return this.asked;
  }

  dispose(): void {
    process.off('SIGINT', this.onInterrupt);
    process.off('SIGTERM', this.ask);
  }
}

/** Thrown when a stage ended because it was asked to; its state is saved. */
export class Interrupted extends Error {
  constructor(stage: string, step: number, folder: string) {
    super(`${stage}: stopped at step ${step}, saved in ${folder}. Run the same command again to go on from there.`);
    this.name = 'Interrupted';
  }
}
