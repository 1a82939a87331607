// What must still be done when the process ends without warning (a second Ctrl-C, process.exit in the middle of a
// write): temporary files are removed and buffered lines written. Node calls "exit" listeners synchronously, so a
// cleanup can only use synchronous calls; a kill -9 is beyond anyone's reach.

const cleanups = new Set<() => void>();

/**
 * Registers `cleanup` (synchronous) for the moment when the process exits, and returns the function that takes it back.
 * One listener serves all, so that many open files raise no warning about leaking listeners.
 *
 * @example
 * const done = atExit(() => rmSync(temporary, { force: true }));
 * try { await write(temporary) } finally { done() }
 */
export function atExit(cleanup: () => void): () => void {
  if (cleanups.size === 0) process.on("exit", runCleanups);
  cleanups.add(cleanup);
  return () => {
    if (cleanups.delete(cleanup) && cleanups.size === 0) process.off("exit", runCleanups);
  };
}

function runCleanups(): void {
  for (const cleanup of cleanups) {
    try {
      cleanup();
    } catch {
      // The process is ending: nobody is left to tell, and the other cleanups still have their turn.
    }
  }
  cleanups.clear();
}
