// The worker's end of protocol.ts. Requests are answered one after another, in the order in which they come, with two
// exceptions: `stop` and `hold` overtake everything, and what is quick everything that pauses (measurements), so that drawing
// never waits.
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

/** What pauses, and waits while it is held. */
const measurements: ReadonlySet<Method> = new Set<Method>(["measure", "ranks"]);

/** Answers the page's requests with these handlers. */
export function serve(given: Omit<Handlers, "hold">): void {
  const urgent: Request[] = [];
  const patient: Request[] = [];
  let isBusy = false;
  let isHeld = false;
  let wake: () => void = () => undefined;
  const handlers: Handlers = {
    ...given,
    hold: (argument) => {
      isHeld = argument.isHeld;
      return null;
    },
  };
  /** What goes before the measurement that is under way; before one that is held everything but others. */
  const overtaking = (): Request | undefined => {
    if (urgent.length > 0 || !isHeld) return urgent.shift();
    const at = patient.findIndex(({ method }) => !measurements.has(method));
    return at < 0 ? undefined : patient.splice(at, 1)[0];
  };
  const pause: Pause = async () => {
    await turn();
    for (;;) {
      for (let next = overtaking(); next !== undefined; next = overtaking()) await answer(handlers, next, pause);
      if (!isHeld) return;
      await new Promise<void>((resolve) => {
        wake = resolve;
      });
    }
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
    if (data.method === "stop" || data.method === "hold") void answer(handlers, data, pause);
    else (quick.has(data.method) ? urgent : patient).push(data);
    wake();
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
