// Light or dark: as the system has it, or as chosen here.
import { computed, type ReadonlySignal, type Signal, signal } from "@preact/signals";

type Theme = "light" | "dark";

const system: MediaQueryList = matchMedia("(prefers-color-scheme: dark)");
const systemTheme: Signal<Theme> = signal<Theme>(system.matches ? "dark" : "light");
const chosen: Signal<Theme | null> = signal<Theme | null>(null);

system.addEventListener("change", ({ matches }) => {
  systemTheme.value = matches ? "dark" : "light";
});

export const theme: ReadonlySignal<Theme> = computed(() => chosen.value ?? systemTheme.value);

/** Turns to the other one; `remember` keeps it for the next visit. */
export function toggleTheme(): Theme {
  const other: Theme = theme.value === "dark" ? "light" : "dark";
  setTheme(other);
  return other;
}

export function setTheme(wanted: Theme): void {
  chosen.value = wanted;
  document.documentElement.dataset.theme = wanted;
}
