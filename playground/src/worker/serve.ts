// The worker's end of protocol.ts. Requests are answered one after another, in the order in which they come, with two
// exceptions: `stop` overtakes everything, and what is quick everything that pauses (measurements), so that drawing never waits.
import type { Failure, Method, Methods, Reply, Request } from "../protocol.ts";
import { turn } from "./turn.ts";

/** Lets predictions through in the middle of long work. */
export type Pause = () => Promise<void>;

export type Handlers = {
  readonly [M in Method]: (
    argument: Methods[M]["argument"],
    tell: (progress: Methods[M]["progress"]) => void,
    pause: Pause,
  ) => Promise<Methods[M]["answer"]> | Methods[M]["answer"];
};

/** What people wait for while they draw, move a slider, or have just trained. */
const quick: ReadonlySet<Method> = new Set<Method>(["predict", "load", "compose", "trace", "cell"]);

/** Answers the page's requests with these handlers. */
export function serve(handlers: Handlers): void {
  const urgent: Request[] = [];
  const patient: Request[] = [];
  let isBusy = false;
  const pause: Pause = async () => {
    await turn();
    for (let next = urgent.shift(); next !== undefined; next = urgent.shift()) await answer(handlers, next, pause);
  };
  const work = async (): Promise<void> => {
    isBusy = true;
    for (;;) {
      const next = urgent.shift() ?? patient.shift();
      if (next === undefined) break;
      await answer(handlers, next, pause);
    }
    isBusy = false;
  };
  self.addEventListener("message", ({ data }: MessageEvent<Request>) => {
    if (data.method === "stop") {
      void answer(handlers, data, pause);
      return;
    }
    (quick.has(data.method) ? urgent : patient).push(data);
    if (!isBusy) void work();
  });
}

async function answer(handlers: Handlers, { id, method, argument }: Request, pause: Pause): Promise<void> {
  const post = (reply: Reply): void => self.postMessage(reply);
  const handler = handlers[method] as (
    argument: unknown,
    tell: (value: unknown) => void,
    pause: Pause,
  ) => Promise<unknown>;
  try {
    const value = await handler(argument, (progress) => post({ id, kind: "progress", value: progress }), pause);
    post({ id, kind: "answer", value });
  } catch (error) {
    post({ id, kind: "failure", failure: failureOf(error) });
  }
}

function failureOf(error: unknown): Failure {
  const code = error instanceof Error && "code" in error && typeof error.code === "string" ? error.code : "internal";
  return { code, message: error instanceof Error ? error.message : String(error) };
}
