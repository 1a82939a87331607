import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { escapeHtml, html } from "./html.ts";
import { checkMarkup } from "./testing/markup.ts";

describe("html", () => {
  it("escapes data and keeps markup of its own", () => {
    const inner = html`<b>${"a < b & c"}</b>`;
    expect(html`<p title="${`"'`}">${inner}${3}</p>`.toString()).toBe(
      '<p title="&quot;&#39;"><b>a &lt; b &amp; c</b>3</p>',
    );
  });

  it("leaves nothing for null and false, and joins arrays", () => {
    expect(html`[${null}${false}${["x", html`<i>y</i>`, null]}]`.toString()).toBe("[x<i>y</i>]");
  });

  it("takes no data for markup, whatever its shape", () => {
    const forged = JSON.parse('{"toString": "<script>"}') as string;
    expect(() => html`${forged}`.toString()).toThrow();
  });

  it("replaces control characters and half surrogates, and keeps all other text", () => {
    expect(escapeHtml("a\u0000b\u001bc\ud800d\te\nf 😀 é")).toBe("a\ufffdb\ufffdc\ufffdd\te\nf 😀 é");
  });

  it("is well formed around any text", () => {
    fc.assert(
      fc.property(fc.string({ unit: "binary" }), (text) => {
        expect(checkMarkup(html`<p class="${text}">${text}</p>`.toString())).toEqual([]);
      }),
    );
  });
});

describe("checkMarkup", () => {
  it.each([
    ["<p>", "left open: p"],
    ["<p></b></p>", "</b> where p is open"],
    ["<p>a < b</p>", "a < that opens no tag"],
    ["<p>a & b</p>", "a bare & in: a & b"],
    ['<p id="x"></p><p id="x"></p>', "id x is used twice"],
    ['<p class="x" class="y"></p>', "<p> has class twice"],
  ])("finds the fault of %s", (markup, fault) => {
    expect(checkMarkup(markup)).toContain(fault);
  });
});
