// The page around the report: one file that asks the network for nothing. Its Content-Security-Policy allows the one
// style sheet by its SHA-256 and images written into the page, and nothing else: no script runs, whatever the data holds.
import { createHash } from "node:crypto";
import { html, Markup } from "./html.ts";
import { STYLE } from "./style.ts";

/** `body` is what stands in <body>. Returns the whole file. */
export function htmlDocument(title: string, body: Markup): string {
  const hash = createHash("sha256").update(STYLE).digest("base64");
  const policy = `default-src 'none'; style-src 'sha256-${hash}'; img-src data:; base-uri 'none'; form-action 'none'`;
  const page = html`<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="${policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta name="referrer" content="no-referrer">
<title>${title}</title>
<link rel="icon" href="data:,">
<style>${Markup.trusted(STYLE)}</style>
</head>
<body>
${body}</body>
</html>
`;
  return page.toString();
}
