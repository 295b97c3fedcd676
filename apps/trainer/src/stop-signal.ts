/**
 * Ctrl-C asks once and is answered at the next step's end, so that a whole checkpoint is written; a second Ctrl-C ends
 * the process at once.
 */
export class StopSignal {
  private asked = false;
  private readonly onSignal = () => {
    if (this.asked) process.exit(130);
    this.asked = true;
    process.stderr.write('\nStopping after this step and saving; press Ctrl-C again to stop at once.\n');
  };

  constructor() {
    process.on('SIGINT', this.onSignal);
    process.on('SIGTERM', this.onSignal);
  }

  get requested(): boolean {
    return this.asked;
  }

  dispose(): void {
    process.off('SIGINT', this.onSignal);
    process.off('SIGTERM', this.onSignal);
  }
}

/** Thrown when a stage ended because it was asked to; its state is saved. */
export class Interrupted extends Error {
  constructor(stage: string, step: number, folder: string) {
    super(`${stage}: stopped at step ${step}, saved in ${folder}. Run the same command again to go on from there.`);
    this.name = 'Interrupted';
  }
}
