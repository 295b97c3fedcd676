/**
 * Ctrl-C or SIGTERM requests a stop at the end of the current step, so that a whole checkpoint is written. A second Ctrl-C
 * ends the process at once. A second SIGTERM does not: a process manager may send it to every process of a group.
 */
export class StopSignal {
  private isRequested = false;
  private readonly request = () => {
    if (this.isRequested) return;
    this.isRequested = true;
    process.stderr.write('\nStopping after this step and saving; press Ctrl-C again to stop at once.\n');
  };
  private readonly onInterrupt = () => {
    if (this.isRequested) process.exit(130);
    this.request();
  };

  constructor() {
    process.on('SIGINT', this.onInterrupt);
    process.on('SIGTERM', this.request);
  }

  get requested(): boolean {
    return this.isRequested;
  }

  dispose(): void {
    process.off('SIGINT', this.onInterrupt);
    process.off('SIGTERM', this.request);
  }
}

/** Thrown when a stage was stopped on request. Its state is saved. */
export class Interrupted extends Error {
  constructor(stage: string, step: number, folder: string) {
    super(`${stage}: stopped at step ${step}, saved in ${folder}. Run the same command again to resume.`);
    this.name = 'Interrupted';
  }
}
