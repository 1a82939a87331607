// Markup that is safe by construction: whatever is put into an `html` template is escaped, unless it is markup that
// another `html` template made. Serves HTML and the SVG inside it alike.

/** Text that is already HTML. Only this file makes one, so that data can never pass for markup. */
export class Markup {
  readonly #text: string;

  private constructor(text: string) {
    this.#text = text;
  }

  toString(): string {
    return this.#text;
  }

  /** For text that this project wrote itself (a style sheet); never for data. */
  static trusted(text: string): Markup {
    return new Markup(text);
  }
}

/** What a template can hold; null and false leave nothing, an array leaves its items one after another. */
export type Content = string | number | Markup | null | false | readonly Content[];

/**
 * A piece of HTML.
 *
 * @example
 * html`<p>${"a < b"}</p>`.toString() // "<p>a &lt; b</p>"
 */
export function html(parts: TemplateStringsArray, ...values: readonly Content[]): Markup {
  const text = parts.reduce((before, part, index) => before + render(values[index - 1] ?? null) + part);
  return Markup.trusted(text);
}

/** Text for HTML's content and its quoted attributes. Control characters and half surrogates become U+FFFD. */
export function escapeHtml(text: string): string {
  return [...text].map((character) => entities[character] ?? visible(character)).join("");
}

const entities: Readonly<Record<string, string>> = {
  "&": "&amp;",
  "<": "&lt;",
  ">": "&gt;",
  '"': "&quot;",
  "'": "&#39;",
};

function visible(character: string): string {
  const code = character.codePointAt(0) ?? 0;
  const space = code === 0x09 || code === 0x0a;
  const control = (code < 0x20 && !space) || (code >= 0x7f && code < 0xa0);
  const halfSurrogate = code >= 0xd800 && code < 0xe000;
  return control || halfSurrogate ? "\u{fffd}" : character;
}

function render(value: Content): string {
  if (value === null || value === false) return "";
  if (value instanceof Markup) return value.toString();
  if (typeof value === "string") return escapeHtml(value);
  if (typeof value === "number") return String(value);
  return value.map(render).join("");
}
