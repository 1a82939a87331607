// Rank, alpha and scale of each module. The update is scale * B A with scale = alpha / r (Hu et al. 2021,
// arXiv:2106.09685) or alpha / sqrt(r) with rsLoRA (Kalajdzievski 2023, arXiv:2312.03732). rankPattern and alphaPattern
// overrule r and loraAlpha for the module paths that a key matches, as in PEFT 0.21 (get_pattern_key).
import { LowrankError } from "../errors.ts";
import type { AdapterConfig } from "./config.ts";

type Pattern = Readonly<Record<string, number>>;

/**
 * What the update B A of a module is multiplied by.
 *
 * @example
 * scaleOf({ r: 4, loraAlpha: 8, useRslora: false, rankPattern: {}, alphaPattern: {} }, "fc1") // 2
 */
export function scaleOf(
  config: Pick<AdapterConfig, "r" | "loraAlpha" | "useRslora" | "rankPattern" | "alphaPattern">,
  modulePath: string,
): number {
  const r = rankOf(config, modulePath);
  return alphaOf(config, modulePath) / (config.useRslora ? Math.sqrt(r) : r);
}

/** The rank of a module: that of the first matching key of rankPattern, else r. */
export function rankOf(config: Pick<AdapterConfig, "r" | "rankPattern">, modulePath: string): number {
  return lookUp(config.rankPattern, modulePath) ?? config.r;
}

/** The alpha of a module: that of the first matching key of alphaPattern, else loraAlpha. */
export function alphaOf(config: Pick<AdapterConfig, "loraAlpha" | "alphaPattern">, modulePath: string): number {
  return lookUp(config.alphaPattern, modulePath) ?? config.loraAlpha;
}

/**
 * A pattern in which it does not matter which key comes first, for PEFT sorts them when it saves again: the same one where
 * sorting changes nothing for these modules, else one key for each whose value is not `usual`.
 *
 * @param order compares keys as the sorting does.
 */
export function orderFree(
  pattern: Pattern,
  modulePaths: readonly string[],
  usual: number,
  order: (a: string, b: string) => number,
): Pattern {
  const sorted = new Map(Object.entries(pattern).sort(([a], [b]) => order(a, b)));
  const first = [...sorted].map(([key, value]) => [compile(key), value] as const);
  const values = modulePaths.map((path) => [path, lookUp(pattern, path) ?? usual] as const);
  const isSame = values.every(([path, value]) => (first.find(([matches]) => matches(path))?.[1] ?? usual) === value);
  return isSame ? pattern : patternFor(new Map(values), usual);
}

/**
 * The configuration for modules that are called otherwise in a model: each has the rank and alpha that it has under its own
 * path.
 *
 * @param renamed the model's path of each module, by the configuration's own.
 */
export function withPaths(config: AdapterConfig, renamed: ReadonlyMap<string, string>): AdapterConfig {
  const { r, loraAlpha, rankPattern, alphaPattern } = config;
  if (Object.keys(rankPattern).length + Object.keys(alphaPattern).length === 0) return config;
  const under = (ofPath: (path: string) => number, usual: number): Pattern =>
    patternFor(new Map([...renamed].map(([own, path]) => [path, ofPath(own)])), usual);
  return {
    ...config,
    rankPattern: under((path) => rankOf(config, path), r),
    alphaPattern: under((path) => alphaOf(config, path), loraAlpha),
  };
}

/**
 * Keys for the modules whose value is not `usual`. A key that is a path also matches paths that end in it; where that would
 * reach a module of another value, it is anchored (`^path`), so that the order of the keys does not matter.
 */
export function patternFor(values: ReadonlyMap<string, number>, usual: number): Record<string, number> {
  // For each ending of a path, whether all modules that have it agree.
  const byEnding = new Map<string, number | null>();
  for (const [path, value] of values) {
    for (let at = 0; at >= 0; at = nextSegment(path, at)) {
      const ending = path.slice(at);
      const before = byEnding.get(ending);
      byEnding.set(ending, before === undefined || before === value ? value : null);
    }
  }
  const entries = [...values].filter(([, value]) => value !== usual);
  return Object.fromEntries(
    entries.map(([path, value]) => {
      const isPlain = /^[\w.-]*$/.test(path) && byEnding.get(path) === value;
      return [isPlain ? path : `^${path.replace(/[^\w-]/g, "\\$&")}`, value];
    }),
  );
}

function nextSegment(path: string, from: number): number {
  const dot = path.indexOf(".", from);
  return dot < 0 ? -1 : dot + 1;
}

/**
 * What is wrong with a key of rankPattern or alphaPattern; null when nothing is.
 *
 * Keys are Python regular expressions, read as JavaScript's. Those that JavaScript cannot read, would read differently,
 * or that could backtrack for exponential time are refused.
 */
export function patternFault(key: string): string | null {
  if (key.length > maxPatternLength) return `expected at most ${maxPatternLength} characters, got ${key.length}`;
  if (isLiteral(key)) return null;
  const python = pythonOnly.exec(key)?.[0];
  if (python !== undefined) return `${python} is not supported: JavaScript means something else by it`;
  try {
    new RegExp(key); // by itself, so that its brackets close what they open
    toRegExp(key);
  } catch {
    return "expected a regular expression that JavaScript can read, got another";
  }
  if (backtracking(key, 1) === Number.POSITIVE_INFINITY) {
    return "a repeated group with a repetition or an alternative inside is not supported: matching could take forever";
  }
  return null;
}

type Match = (modulePath: string) => boolean;

/** Compiled once for each pattern object: a config is asked for every module, often. */
const compiled = new WeakMap<Pattern, readonly (readonly [matches: Match, value: number])[]>();

function lookUp(pattern: Pattern, modulePath: string): number | undefined {
  let matchers = compiled.get(pattern);
  if (matchers === undefined) {
    matchers = Object.entries(pattern).map(([key, value]) => [compile(key), value] as const);
    compiled.set(pattern, matchers);
  }
  const found = matchers.find(([matches]) => matches(modulePath));
  if (found !== undefined) return found[1];
  // As PEFT does: a path that is itself a key, though as an expression it would not match itself.
  return Object.hasOwn(pattern, modulePath) ? pattern[modulePath] : undefined;
}

function compile(key: string): Match {
  const fault = patternFault(key);
  if (fault !== null)
    throw new LowrankError(
      "adapter",
      `rankPattern or alphaPattern, key ${JSON.stringify(key.slice(0, 100))}: ${fault}`,
    );
  if (isLiteral(key)) return literalMatch(key);
  const expression = toRegExp(key);
  return (path) => {
    const steps = backtracking(key, path.length) * path.split(".").length;
    if (steps > maxSteps) {
      throw new LowrankError(
        "adapter",
        `rankPattern or alphaPattern, key ${JSON.stringify(key)}: too many repetitions for a module path of ${path.length} characters; write it with fewer`,
      );
    }
    return expression.test(path);
  };
}

/** PEFT's `re.match(rf"(.*\.)?({key})$", path)`. */
function toRegExp(key: string): RegExp {
  return new RegExp(`^(.*\\.)?(${key})$`);
}

// --- patterns come from files of strangers ---------------------------------------------------------------------------
// JavaScript's expressions backtrack, so that a short pattern can take longer than the universe on a path made for it.
// Nearly all real keys are names; those are compared without an expression. For the others the number of ways in which a
// path can be tried is bounded: a product over the repetitions and alternatives, infinite where they are nested.

const maxPatternLength = 512;
/** Upper estimate of the ways to try in one match; a tenth of a second at the worst. */
const maxSteps = 2e8;

/** What both read, but as different things: the ends of the text, a count up to n, a class that begins with `]`. */
const pythonOnly = /\\[AZzaNU]|\{,\d*\}|\[\^?\]/;

/** Names, with `.` (any character) and `\.` (a dot). */
function isLiteral(key: string): boolean {
  return /^(?:[\w-]|\\?\.)*$/.test(key);
}

/** The same match without an expression: the end of the path, from its start or from a dot. */
function literalMatch(key: string): Match {
  const wanted = key.match(/\\\.|[^\\]/g) ?? []; // one entry for each character: "." is any, "\." is a dot
  return (path) => {
    const start = path.length - wanted.length;
    if (start < 0 || (start > 0 && path[start - 1] !== ".")) return false;
    return wanted.every((character, i) => {
      const got = path[start + i];
      return character === "." ? got !== "\n" : got === (character === "\\." ? "." : character);
    });
  };
}

interface Group {
  alternatives: number;
  /** A repetition, option or alternative is inside. */
  varies: boolean;
}

/** In how many ways, at most, a valid expression can try a path of `length` characters. */
export function backtracking(key: string, length: number): number {
  let ways = 1;
  let last: Group | null = null; // the group that has just been closed
  const open: Group[] = [{ alternatives: 1, varies: false }];
  for (const token of key.match(
    /\\.|\[(?:\\.|[^\]\\])*\]|[*+?]\??|\{\d+(?:,\d*)?\}\??|\((?:\?(?:<?[=!]|:|<\w+>))?|[\s\S]/g,
  ) ?? []) {
    const inner = open.at(-1)!;
    const closed = last;
    last = null;
    if (token.startsWith("(")) {
      open.push({ alternatives: 1, varies: false });
    } else if (token === ")") {
      last = open.pop()!;
      ways *= last.alternatives;
      open.at(-1)!.varies ||= last.varies;
    } else if (token === "|") {
      inner.alternatives++;
      inner.varies = true;
    } else if (token.startsWith("?")) {
      ways *= 4; // two ways, and the work of going back
      inner.varies = true;
    } else if (/^(?:[*+]|\{\d)/.test(token)) {
      if (closed?.varies) return Number.POSITIVE_INFINITY;
      if (Number(/^\{(\d+)/.exec(token)?.[1] ?? 0) > maxPatternLength) return Number.POSITIVE_INFINITY;
      if (!/^\{\d+\}/.test(token)) ways *= Math.max(length, 2);
      inner.varies = true;
    }
  }
  return ways * open[0]!.alternatives;
}
