// A turn of the worker's event loop. The runtime's promises never leave the microtasks: without such a turn a message that
// came meanwhile (a new digit, `stop`) would wait until all the work is done.
export function turn(): Promise<void> {
  return new Promise((resolve) => {
    const { port1, port2 } = new MessageChannel();
    port1.onmessage = () => {
      port1.close();
      resolve();
    };
    port2.postMessage(null);
  });
}
