// A small check that HTML is well formed: what a browser would silently mend is a fault in a page that we write.

const VOID = new Set(["meta", "link", "img", "br", "hr", "input"]);
const TOKEN =
  /<!doctype html>|<!--[\s\S]*?-->|<\/?([a-z][a-z0-9]*)((?:\s+[a-zA-Z][\w:-]*(?:="[^"<]*")?)*)\s*(\/?)>|[^<]+|</gi;
const ATTRIBUTE = /([a-zA-Z][\w:-]*)(?:="([^"]*)")?/g;

/** All faults: tags left open or closed twice, stray angle brackets and ampersands, attributes and ids used twice. */
export function checkMarkup(markup: string): string[] {
  const faults: string[] = [];
  const open: string[] = [];
  const ids = new Set<string>();
  // A style sheet is text of its own kind: > is no tag there.
  const source = markup.replace(/<style>[\s\S]*?<\/style>/g, "<style></style>");
  for (const [token, name, attributes = "", selfClosing] of source.matchAll(TOKEN)) {
    if (token === "<") faults.push("a < that opens no tag");
    else if (name === undefined) faults.push(...checkText(token));
    else if (token.startsWith("</")) {
      const last = open.pop();
      if (last !== name) faults.push(`</${name}> where ${last ?? "nothing"} is open`);
    } else {
      faults.push(...checkAttributes(name, attributes, ids));
      if (!VOID.has(name) && selfClosing !== "/") open.push(name);
    }
  }
  if (open.length > 0) faults.push(`left open: ${open.join(", ")}`);
  return faults;
}

function checkText(text: string): string[] {
  const bare = /&(?!(amp|lt|gt|quot|#39);)/.test(text);
  return bare ? [`a bare & in: ${text.trim().slice(0, 60)}`] : [];
}

function checkAttributes(tag: string, attributes: string, ids: Set<string>): string[] {
  const faults = checkText(attributes);
  const names = new Set<string>();
  for (const [, name = "", value] of attributes.matchAll(ATTRIBUTE)) {
    if (names.has(name)) faults.push(`<${tag}> has ${name} twice`);
    names.add(name);
    if (name !== "id") continue;
    if (ids.has(value ?? "")) faults.push(`id ${value} is used twice`);
    ids.add(value ?? "");
  }
  return faults;
}

/** The names of all attributes and tags, such as "img" and "img.src". */
export function usedNames(markup: string): Set<string> {
  const names = new Set<string>();
  for (const [, tag = "", attributes = ""] of markup.matchAll(TOKEN)) {
    names.add(tag);
    for (const [, name] of attributes.matchAll(ATTRIBUTE)) names.add(`${tag}.${name}`);
  }
  return names;
}

/** The text that a reader sees, spaces joined. */
export function visibleText(markup: string): string {
  return markup
    .replace(/<(style|title)[^>]*>[\s\S]*?<\/\1>/g, " ")
    .replace(/<\/(p|td|th|li|dt|dd|h[1-6]|caption|text|figcaption|strong|summary|span)>/g, " ")
    .replace(/<[^>]*>/g, "")
    .replace(/&lt;/g, "<")
    .replace(/&gt;/g, ">")
    .replace(/&quot;/g, '"')
    .replace(/&#39;/g, "'")
    .replace(/&amp;/g, "&")
    .replace(/\s+/g, " "); // \s holds the no-break space
}
