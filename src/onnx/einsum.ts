// Einsum's equation, as NumPy's einsum reads it: one letter for each axis of each operand, "..." for the axes that broadcast,
// and without "->" the letters that occur once, in alphabetical order, behind the axes of "...".
import { LowrankError } from "../errors.ts";
import { describeNode, type Node, stringAttribute } from "./model.ts";

export interface Equation {
  /** The letter of each axis, for each operand; "..." is spelled out in letters of its own. */
  readonly operands: readonly string[];
  readonly result: string;
}

const alphabet = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";

/**
 * The equation of an Einsum node with operands of these ranks; undefined where "..." stands for a number of axes that is
 * not known. Throws LowrankError "model" when the equation does not fit the operands.
 */
export function parseEquation(node: Node, ranks: readonly (number | undefined)[]): Equation | undefined {
  const text = stringAttribute(node, "equation", "").replaceAll(/\s/g, "");
  const [left = "", right] = text.split("->");
  const terms = left.split(",");
  const fault = (why: string): LowrankError =>
    new LowrankError("model", `${describeNode(node)}: equation ${JSON.stringify(text)}: ${why}`);
  if (!/^[A-Za-z.,]*(->[A-Za-z.]*)?$/.test(text)) throw fault("expected letters, commas, ... and ->");
  if (terms.length !== ranks.length) throw fault(`expected ${ranks.length} operands, got ${terms.length}`);

  const free = [...alphabet].filter((letter) => !text.includes(letter));
  let widest = 0;
  for (const [index, term] of terms.entries()) {
    const rank = ranks[index];
    const letters = term.replace("...", "").length;
    if (!term.includes("...")) {
      if (rank !== undefined && rank !== letters) throw fault(`operand ${index} has ${rank} axes, not ${letters}`);
      continue;
    }
    if (rank === undefined) return undefined;
    if (rank < letters) throw fault(`operand ${index} has ${rank} axes, fewer than ${letters}`);
    widest = Math.max(widest, rank - letters);
  }
  if (widest > free.length) throw fault("it has more axes than letters");
  const dots = free.slice(0, widest).join("");
  // Broadcasting aligns at the last axis.
  const operands = terms.map((term, index) => {
    const own = term.includes("...") ? ranks[index]! - (term.length - 3) : 0;
    return term.replace("...", dots.slice(widest - own));
  });
  const result = right === undefined ? dots + implied(left) : right.replace("...", dots);
  if ([...operands, result].some((term) => term.includes("."))) throw fault("expected ... once in each term");
  return { operands, result };
}

/** The letters that occur once, in alphabetical order (upper case first, as ASCII has it). */
function implied(left: string): string {
  const letters = [...left.replaceAll(/[.,]/g, "")];
  return letters
    .filter((letter) => letters.indexOf(letter) === letters.lastIndexOf(letter))
    .sort()
    .join("");
}
