// Starts the page: the worker fetches the base while the page is drawn.
import { render } from "preact";
import { App } from "./app.tsx";
import { recall } from "./state/database.ts";
import { lookForGpu } from "./state/device.ts";
import { inspectAgain } from "./state/inspection.ts";
import { keepState, listenToAddress, restore, restoreModel, restoreShelf } from "./state/persistence.ts";
import { followAll, notice, open, opened, report } from "./state/store.ts";
import { setTheme } from "./state/theme.ts";

async function start(): Promise<void> {
  const opening = open();
  const theme = await recall("theme");
  if (theme === "light" || theme === "dark") setTheme(theme);
  await restore().catch(report);
  render(<App />, document.getElementById("app")!);
  document.documentElement.dataset.state = "drawn";
  await opening;
  if (opened.value === null) return;
  await restoreShelf();
  const model = await restoreModel();
  followAll();
  keepState();
  listenToAddress();
  document.documentElement.dataset.state = "ready";
  await inspectAgain(model);
  await lookForGpu();
}

addEventListener("unhandledrejection", ({ reason }) => report(reason));
// A file that misses its place must not take the page away.
for (const type of ["dragover", "drop"]) {
  addEventListener(type, (event) => {
    const isOver = event.target instanceof Element && event.target.closest(".dropzone") !== null;
    if (isOver) return;
    event.preventDefault();
    if (type === "drop")
      notice.value = {
        kind: "info",
        text: "Drop files on one of the marked places: adapters in Take home, models in Your model.",
      };
  });
}
start().catch(report);
