// The page: the board with what it reads on one side, which stays in sight, and the five chapters on the other.
import type { VNode } from "preact";
import { Bars, Sentence } from "./panels/bars.tsx";
import { Board } from "./panels/board.tsx";
import { TakeHome } from "./panels/home.tsx";
import { YourModel } from "./panels/model.tsx";
import { See } from "./panels/see.tsx";
import { Teach } from "./panels/teach.tsx";
import { Understand } from "./panels/understand.tsx";
import { keep } from "./state/database.ts";
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
      <button type="button" class="skip" onClick={(event) => jump(event, "see")}>
        Skip to the chapters
      </button>
      <Top />
      <main>
        <div class="hero">
          <h1>
            A few thousand numbers teach a network <em>your</em> hand
          </h1>
          <div role="status" aria-live="polite" aria-atomic="true">
            <Sentence />
          </div>
        </div>
        <div class="columns">
          <div class="instrument">
            <Board />
            <Bars />
          </div>
          <div class="chapters">
            <Loading />
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

/** The address holds the page's state, so that links within the page must not touch it. */
function jump(event: Event, id: string): void {
  event.preventDefault();
  const title = document.getElementById(`${id}-title`);
  if (title === null) return;
  const isStill = matchMedia("(prefers-reduced-motion: reduce)").matches;
  document.getElementById(id)?.scrollIntoView({ behavior: isStill ? "auto" : "smooth", block: "start" });
  title.tabIndex = -1;
  title.focus({ preventScroll: true });
}

function Top() {
  return (
    <header class="top">
      <p class="brand">
        <img src={icon} alt="" width={22} height={22} /> lowrank <span>playground</span>
      </p>
      <nav aria-label="Chapters">
        {chapters.map(([id, name]) => (
          <a key={id} href={`#${id}`} onClick={(event) => jump(event, id)}>
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
  if (current.kind === "ready") return null;
  if (current.kind === "failed") {
    return (
      <p class="fault" role="alert">
        The base could not be loaded: {current.message}
      </p>
    );
  }
  const { progress } = current;
  return (
    <div class="loading" role="status">
      <p>
        {progress === null ? "Starting …" : `Fetching the base, ${size(progress.loaded)} of ${size(progress.total)} …`}
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
          .
        </p>
      )}
    </footer>
  );
}

const icon: string = new URL("./icon.svg", import.meta.url).href;
