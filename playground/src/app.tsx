// The page: the board with what it reads on one side, which stays in sight, and the five chapters on the other.
import type { VNode } from "preact";
import { jump } from "./jump.ts";
import { Bars, Sentence } from "./panels/bars.tsx";
import { Board } from "./panels/board.tsx";
import { TakeHome } from "./panels/home.tsx";
import { YourModel } from "./panels/model.tsx";
import { See } from "./panels/see.tsx";
import { Teach } from "./panels/teach.tsx";
import { Tour } from "./panels/tour.tsx";
import { Understand } from "./panels/understand.tsx";
import type { Device } from "./protocol.ts";
import { keep } from "./state/database.ts";
import { hasGpu, useDevice } from "./state/device.ts";
import { notice, opened, status } from "./state/store.ts";
import { theme, toggleTheme } from "./state/theme.ts";
import { size } from "./ui/format.ts";

const chapters: readonly (readonly [id: string, name: string])[] = [
  ["see", "See"],
  ["teach", "Teach"],
  ["understand", "Understand"],
  ["home", "Take home"],
  ["model", "Your model"],
];

export function App(): VNode {
  return (
    <>
      <button type="button" class="skip" onClick={(event) => follow(event, "see")}>
        Skip to the chapters
      </button>
      <Top />
      <main>
        <div class="hero">
          <h1>
            A few thousand numbers teach a network <em>your</em> hand
          </h1>
          <div role="status" aria-live="polite" aria-atomic="true">
            {status.value.kind === "ready" ? <Sentence /> : <Loading />}
          </div>
          <Tour />
        </div>
        <div class="columns">
          <div class="instrument">
            <Board />
            <Bars />
          </div>
          <div class="chapters">
            <See />
            <Teach />
            <Understand />
            <TakeHome />
            <YourModel />
          </div>
        </div>
      </main>
      <Foot />
      <Notices />
    </>
  );
}

/** A link within the page, or a button that does the same. */
function follow(event: Event, id: string): void {
  event.preventDefault();
  jump(id);
}

function Top() {
  return (
    <header class="top">
      <p class="brand">
        <img src={icon} alt="" width={22} height={22} /> lowrank <span>playground</span>
      </p>
      <nav aria-label="Chapters">
        {chapters.map(([id, name]) => (
          <a key={id} href={`#${id}`} onClick={(event) => follow(event, id)}>
            {name}
          </a>
        ))}
      </nav>
      <button type="button" class="quiet theme" onClick={() => void keep("theme", toggleTheme())}>
        {theme.value === "dark" ? "Light" : "Dark"}
      </button>
    </header>
  );
}

function Loading() {
  const current = status.value;
  if (current.kind === "failed") {
    return (
      <p class="fault" role="alert">
        The base could not be loaded: {current.message}
      </p>
    );
  }
  const progress = current.kind === "loading" ? current.progress : null;
  return (
    <div class="sentence">
      <p>
        Fetching a small network that reads digits
        {progress === null ? "" : `, ${size(progress.loaded)} of ${size(progress.total)}`} …
      </p>
      <progress aria-label="Fetching the base" max={progress?.total ?? 1} value={progress?.loaded} />
    </div>
  );
}

function Notices() {
  const current = notice.value;
  return (
    <div class="notices" role={current?.kind === "error" ? "alert" : "status"}>
      {current !== null && (
        <div class={`notice ${current.kind}`}>
          <p>{current.text}</p>
          <button
            type="button"
            class="quiet"
            onClick={() => {
              notice.value = null;
            }}
          >
            Close<span class="visually-hidden"> this message</span>
          </button>
        </div>
      )}
    </div>
  );
}

function Foot() {
  const about = opened.value;
  return (
    <footer class="foot">
      <p>
        Everything runs in this page: no digit, drawing or file is sent anywhere. Method: Hu et al. 2021, “LoRA:
        Low-Rank Adaptation of Large Language Models”, arXiv:2106.09685.
      </p>
      {about !== null && (
        <p>
          Base: {about.layers.map(({ inFeatures }) => inFeatures).join("–")}–10, trained on{" "}
          {about.about.trainedOn.toLocaleString("en-US")} digits of MNIST. Running on{" "}
          {about.device === "webgpu"
            ? "WebGPU"
            : `WebAssembly, ${about.threads} ${about.threads === 1 ? "thread" : "threads"}`}
          . {hasGpu.value && <OtherDevice now={about.device} />}
        </p>
      )}
    </footer>
  );
}

/** Small networks gain little by a GPU; whoever has one can see that for themselves. */
function OtherDevice({ now }: { now: Device }) {
  const other: Device = now === "webgpu" ? "wasm" : "webgpu";
  return (
    <button type="button" class="inline" onClick={() => useDevice(other)}>
      Use {other === "webgpu" ? "WebGPU" : "WebAssembly"} instead
    </button>
  );
}

const icon: string = new URL("./icon.svg", import.meta.url).href;
