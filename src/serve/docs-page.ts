// The page of the API, written from the OpenAPI document: one HTML file that loads nothing from anywhere and runs no script.
import { htmlDocument } from "../runs/report/document.ts";
import { html, type Markup } from "../runs/report/html.ts";

/** The part of an OpenAPI 3 document that is shown. */
export interface OpenApi {
  readonly info: { readonly title: string; readonly version: string; readonly description?: string };
  readonly paths?: Readonly<Record<string, Readonly<Record<string, unknown>>>>;
}

interface Operation {
  readonly tags?: readonly string[];
  readonly summary?: string;
  readonly description?: string;
  readonly requestBody?: { readonly content?: Readonly<Record<string, { readonly schema?: JsonSchema }>> };
  readonly responses?: Readonly<Record<string, { readonly description?: string }>>;
}

interface JsonSchema {
  readonly required?: readonly string[];
  readonly properties?: Readonly<Record<string, { readonly type?: unknown; readonly description?: string }>>;
}

/** The page as a file. */
export function renderDocs(document: OpenApi): string {
  const { info, paths = {} } = document;
  const operations = Object.entries(paths).flatMap(([path, methods]) =>
    Object.entries(methods).map(([method, operation]) => ({ path, method, ...(operation as Operation) })),
  );
  const tags = [...new Set(operations.map(({ tags: [tag = "other"] = [] }) => tag))];
  const body = html`<header><p class="kicker">lowrank ${info.version}</p><h1>${info.title}</h1>
<p class="deck">${info.description ?? ""}</p>
<nav><ul><li><a href="openapi.json">openapi.json</a></li>${tags.map((tag) => html`<li><a href="#${tag}">${tag}</a></li>`)}</ul></nav></header>
<main>${tags.map(
    (tag) => html`<section id="${tag}"><h2>${tag}</h2>
${operations.filter(({ tags: [own = "other"] = [] }) => own === tag).map(renderOperation)}</section>
`,
  )}</main>
`;
  return htmlDocument(info.title, body);
}

function renderOperation({
  path,
  method,
  summary,
  description,
  requestBody,
  responses,
}: Operation & { path: string; method: string }): Markup {
  const schema = Object.values(requestBody?.content ?? {})[0]?.schema;
  const fields = Object.entries(schema?.properties ?? {});
  return html`<h3><code>${method.toUpperCase()} ${path}</code></h3>
<p>${summary ?? ""}${description === undefined ? "" : ` ${description}`}</p>
${
  fields.length > 0 &&
  html`<table><thead><tr><th>field</th><th>type</th><th></th></tr></thead><tbody>${fields.map(
    ([name, { type, description: words = "" }]) =>
      html`<tr><td><code>${name}</code>${(schema?.required ?? []).includes(name) ? " (required)" : ""}</td><td>${String(type ?? "any")}</td><td>${words}</td></tr>`,
  )}</tbody></table>`
}
<ul>${Object.entries(responses ?? {}).map(
    ([status, { description: words = "" }]) => html`<li>${status}: ${words}</li>`,
  )}</ul>
`;
}
