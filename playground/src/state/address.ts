// The page's state as text behind the address's #, and back. Whoever opens a link is not to be trusted: every part is checked, and
// what cannot be is left out and told.

import { pixelCount, side } from "../digit/bytes.ts";
import type { Stroke } from "../digit/drawing.ts";
import type { TrainingSettings } from "../protocol.ts";

/** What is looked at: strokes, one of the digits that came with the page, or a picture's. */
export type Subject =
  | { readonly kind: "strokes"; readonly strokes: readonly Stroke[] }
  | { readonly kind: "digit"; readonly set: "misread" | "kept"; readonly index: number }
  | { readonly kind: "photo"; readonly pixels: Uint8Array };

export interface SharedState {
  readonly subject: Subject;
  /** Adapters that are switched on, and their weights. */
  readonly blend: readonly { readonly id: string; readonly weight: number }[];
  readonly on: boolean;
  readonly strength: number;
  readonly rank: number | null;
  readonly layer: string;
  readonly mode: "digits" | "symbols";
  readonly training: Omit<TrainingSettings, "seed">;
}

export const defaults: SharedState = {
  subject: { kind: "digit", set: "misread", index: 0 },
  blend: [{ id: "ready", weight: 1 }],
  on: true,
  strength: 1,
  rank: null,
  layer: "fc1",
  mode: "digits",
  training: { r: 4, alpha: 8, targets: ["fc1", "fc2", "fc3"], learningRate: 0.003, steps: 40, replay: 1 },
};

/** What each number may be. */
export const limits = {
  weight: { from: -2, to: 2 },
  strength: { from: -1, to: 3 },
  rank: { from: 1, to: 64 },
  r: { from: 1, to: 32 },
  alpha: { from: 1, to: 64 },
  learningRate: { from: 0.0001, to: 0.05 },
  steps: { from: 5, to: 2000 },
  replay: { from: 0, to: 4 },
} as const;

const layers: readonly string[] = ["fc1", "fc2", "fc3"];
const units = 8;
const mostPoints = 4000;

/** The state as a query, with only what differs from the defaults. */
export function writeAddress(state: SharedState): string {
  const { training: own } = state;
  const wanted = defaults.training;
  const parts: [name: string, value: string, isDefault: boolean][] = [
    ["d", writeSubject(state.subject), false],
    ["mix", state.blend.map(({ id, weight }) => `${id}:${weight}`).join(","), sameBlend(state.blend, defaults.blend)],
    ["on", state.on ? "1" : "0", state.on],
    ["strength", String(state.strength), state.strength === defaults.strength],
    ["rank", String(state.rank), state.rank === null],
    ["layer", state.layer, state.layer === defaults.layer],
    ["mode", state.mode, state.mode === defaults.mode],
    ["r", String(own.r), own.r === wanted.r],
    ["alpha", String(own.alpha), own.alpha === wanted.alpha],
    ["lr", String(own.learningRate), own.learningRate === wanted.learningRate],
    ["steps", String(own.steps), own.steps === wanted.steps],
    ["replay", String(own.replay), own.replay === wanted.replay],
    ["layers", own.targets.join(","), own.targets.length === wanted.targets.length],
  ];
  return parts.flatMap(([name, value, isDefault]) => (isDefault ? [] : [`${name}=${value}`])).join("&");
}

function sameBlend(one: SharedState["blend"], other: SharedState["blend"]): boolean {
  return JSON.stringify(one) === JSON.stringify(other);
}

/** The state that an address asks for, defaults where it says nothing, and what in it could not be used. */
export function readAddress(text: string): { readonly state: SharedState; readonly faults: readonly string[] } {
  const given = new URLSearchParams(text.replace(/^#/, ""));
  const faults: string[] = [];
  const take = <T>(name: string, otherwise: T, read: (value: string) => T | undefined): T => {
    const value = given.get(name);
    if (value === null) return otherwise;
    const found = read(value);
    if (found === undefined) faults.push(name);
    return found ?? otherwise;
  };
  const number = (name: string, key: keyof typeof limits, otherwise: number, isWhole = false): number =>
    take(name, otherwise, (value) => numberWithin(value, limits[key], isWhole));
  const { training } = defaults;
  const state: SharedState = {
    subject: take("d", defaults.subject, readSubject),
    blend: take("mix", defaults.blend, readBlend),
    on: take("on", true, (value) => (value === "1" ? true : value === "0" ? false : undefined)),
    strength: number("strength", "strength", defaults.strength),
    rank: take<number | null>("rank", null, (value) => numberWithin(value, limits.rank, true)),
    layer: take("layer", defaults.layer, (value) => layers.find((layer) => layer === value)),
    mode: take("mode", defaults.mode, (value) => (value === "digits" || value === "symbols" ? value : undefined)),
    training: {
      r: number("r", "r", training.r, true),
      alpha: number("alpha", "alpha", training.alpha),
      learningRate: number("lr", "learningRate", training.learningRate),
      steps: number("steps", "steps", training.steps, true),
      replay: number("replay", "replay", training.replay),
      targets: take("layers", training.targets, (value) => {
        const list = layers.filter((layer) => value.split(",").includes(layer));
        return list.length > 0 ? list : undefined;
      }),
    },
  };
  return { state, faults };
}

function numberWithin(text: string, { from, to }: { from: number; to: number }, isWhole: boolean): number | undefined {
  const value = Number(text);
  if (text === "" || !(value >= from && value <= to)) return undefined;
  return isWhole && !Number.isInteger(value) ? undefined : value;
}

function readBlend(text: string): SharedState["blend"] | undefined {
  if (text === "") return [];
  const parts = text.split(",").map((part) => /^([\w-]{1,40}):([-\d.]+)$/.exec(part));
  const blend = parts.flatMap((found) => {
    const weight = found === null ? undefined : numberWithin(found[2]!, limits.weight, false);
    return weight === undefined ? [] : [{ id: found![1]!, weight }];
  });
  const isWhole = blend.length === parts.length && blend.length <= 8;
  return isWhole && new Set(blend.map(({ id }) => id)).size === blend.length ? blend : undefined;
}

/** `m3`, `k20`: digits of the page; `s…`: strokes; `p…`: a picture's pixels in four bits each. */
function writeSubject(subject: Subject): string {
  if (subject.kind === "digit") return `${subject.set === "misread" ? "m" : "k"}${subject.index}`;
  if (subject.kind === "photo") {
    const nibbles = subject.pixels.map((value) => value >> 4);
    return `p${toText(Uint8Array.from({ length: pixelCount / 2 }, (_, at) => (nibbles[2 * at]! << 4) | nibbles[2 * at + 1]!))}`;
  }
  return `s${subject.strokes.map((stroke) => toText(Uint8Array.from(stroke.flatMap(({ x, y }) => [quantized(x), quantized(y)])))).join(".")}`;
}

function readSubject(text: string): Subject | undefined {
  const rest = text.slice(1);
  if (/^[mk]\d{1,4}$/.test(text)) {
    return { kind: "digit", set: text[0] === "m" ? "misread" : "kept", index: Number(rest) };
  }
  if (text[0] === "p") {
    const bytes = fromText(rest);
    if (bytes?.length !== pixelCount / 2) return undefined;
    return {
      kind: "photo",
      pixels: fourBits(Uint8Array.from([...bytes].flatMap((byte) => [byte & 0xf0, (byte & 15) << 4]))),
    };
  }
  if (text[0] !== "s") return undefined;
  const strokes = rest === "" ? [] : rest.split(".").map(readStroke);
  if (strokes.some((stroke) => stroke === undefined)) return undefined;
  const known = strokes as Stroke[];
  return known.flat().length > mostPoints ? undefined : { kind: "strokes", strokes: known };
}

function readStroke(text: string): Stroke | undefined {
  const bytes = fromText(text);
  if (bytes === undefined || bytes.length === 0 || bytes.length % 2 !== 0) return undefined;
  if (bytes.some((value) => value > side * units)) return undefined;
  return Array.from({ length: bytes.length / 2 }, (_, at) => ({
    x: bytes[2 * at]! / units,
    y: bytes[2 * at + 1]! / units,
  }));
}

/** Points are kept to an eighth of a pixel, so that a drawing is the same after a reload. */
export function quantized(value: number): number {
  return Math.round(Math.min(side, Math.max(0, value)) * units);
}

/** Pixels in the sixteen steps that an address holds, the lightest and darkest included. */
export function fourBits(pixels: Uint8Array): Uint8Array {
  return pixels.map((value) => (value >> 4) * 17);
}

function toText(bytes: Uint8Array): string {
  return btoa(String.fromCharCode(...bytes))
    .replaceAll("+", "-")
    .replaceAll("/", "_")
    .replace(/=+$/, "");
}

function fromText(text: string): Uint8Array | undefined {
  if (!/^[\w-]*$/.test(text)) return undefined;
  try {
    return Uint8Array.from(atob(text.replaceAll("-", "+").replaceAll("_", "/")), (character) =>
      character.charCodeAt(0),
    );
  } catch {
    return undefined;
  }
}
