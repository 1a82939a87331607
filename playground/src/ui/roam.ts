// Many buttons in a row as one stop of the Tab key: arrows go from one to the next, Home and End to the first and last.

/** For `onKeyDown` of what holds the buttons; all but one of them have tabIndex -1. */
export function roam(event: KeyboardEvent): void {
  const buttons = [...(event.currentTarget as HTMLElement).querySelectorAll("button")];
  const at = buttons.indexOf(document.activeElement as HTMLButtonElement);
  const last = buttons.length - 1;
  const targets: Readonly<Record<string, number>> = {
    ArrowRight: at + 1,
    ArrowDown: at + 1,
    ArrowLeft: at - 1,
    ArrowUp: at - 1,
    Home: 0,
    End: last,
  };
  const next = targets[event.key];
  if (at < 0 || next === undefined) return;
  event.preventDefault();
  buttons[Math.min(last, Math.max(0, next))]?.focus();
}
