// The report's one style sheet. Colours after Okabe and Ito's palette for all kinds of colour vision (grey, vermilion,
// blue; jfly.uni-koeln.de/color), lightened for dark backgrounds. Meaning never hangs on colour alone.

export const STYLE = `
:root {
  color-scheme: light dark;
  --paper: #ffffff; --ink: #1c2126; --quiet: #59636e; --rule: #d5dae0; --grid: #e8ebee; --panel: #f5f6f8;
  --mark: #fdf3d0; --base: #6f7a86; --on: #d55e00; --replay: #0072b2;
  --right: #66717d; --wrong: #a3195b; --on-wrong: #ffffff; --good: #0a6b4b; --bad: #b3261e; --link: #0b5fa5;
}
@media screen and (prefers-color-scheme: dark) {
  :root {
    --paper: #14171b; --ink: #e6e9ed; --quiet: #a3adb8; --rule: #3a424b; --grid: #272d34; --panel: #1c2126;
    --mark: #3a321a; --base: #95a0ac; --on: #ff9142; --replay: #56b4e9;
    --right: #5f6b77; --wrong: #f06ba8; --on-wrong: #101316; --good: #5fd0a5; --bad: #ff8a80; --link: #7cc0f5;
  }
  .digits img { filter: invert(1); }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; text-size-adjust: 100%; }
body { margin: 0; padding: 0 16px; background: var(--paper); color: var(--ink); font: 17px/1.55 system-ui, sans-serif; overflow-wrap: break-word; }
body > header, main, body > footer { max-width: 720px; margin: 0 auto; }
body > header { padding-top: 56px; }
.kicker { margin: 0 0 10px; font-size: 14px; font-weight: 600; color: var(--quiet); }
h1 { margin: 0 0 18px; font-size: clamp(28px, 6vw, 40px); line-height: 1.12; letter-spacing: -0.015em; text-wrap: balance; }
h2 { margin: 0 0 14px; font-size: 26px; line-height: 1.2; letter-spacing: -0.01em; text-wrap: balance; }
h3 { margin: 40px 0 8px; font-size: 18px; line-height: 1.3; }
p, ul, ol { margin: 0 0 14px; }
.deck { font-size: 20px; line-height: 1.45; }
.facts { display: flex; flex-wrap: wrap; gap: 4px 28px; margin: 24px 0 0; padding: 14px 0; border-block: 1px solid var(--rule); font-size: 14px; }
.facts dt { color: var(--quiet); } .facts dd { margin: 0; font-weight: 600; }
nav { margin-top: 14px; font-size: 15px; }
nav ul { display: flex; flex-wrap: wrap; gap: 4px 20px; margin: 0; padding: 0; list-style: none; }
a { color: var(--link); text-underline-offset: 2px; }
section { margin-top: 56px; }
main > section + section { padding-top: 48px; border-top: 1px solid var(--rule); }
ol.steps { padding-left: 1.5em; } ol.steps li { margin-bottom: 8px; padding-left: 4px; }
.findings { padding: 0; list-style: none; }
.findings li { margin-bottom: 10px; padding-left: 14px; border-left: 4px solid var(--rule); }
.note { margin: 14px 0; padding: 12px 16px; border-left: 4px solid var(--on); background: var(--panel); }
.note p:last-child { margin: 0; }
code { font: 0.9em ui-monospace, monospace; overflow-wrap: anywhere; }
.scroll { overflow-x: auto; margin: 16px 0; }
.scroll:focus-visible, a:focus-visible, summary:focus-visible { outline: 2px solid var(--link); outline-offset: 2px; }
table { border-collapse: collapse; min-width: 100%; font-size: 15px; line-height: 1.35; font-variant-numeric: tabular-nums; }
caption { padding-bottom: 6px; text-align: left; font-size: 14px; color: var(--quiet); }
caption > span { position: sticky; left: 0; display: inline-block; max-width: calc(100vw - 32px); }
th, td { padding: 5px 16px 5px 0; text-align: left; vertical-align: top; border-bottom: 1px solid var(--grid); }
th:first-child { padding-left: 8px; }
th:last-child, td:last-child { padding-right: 8px; }
th { font-weight: 600; } tbody th { font-weight: 400; }
thead th { vertical-align: bottom; border-bottom-color: var(--rule); }
tfoot th, tfoot td { border-top: 1px solid var(--rule); border-bottom: 0; font-weight: 600; }
.number { text-align: right; white-space: nowrap; } thead .number { white-space: normal; }
.whole { white-space: nowrap; } .loose { white-space: normal; }
.mark-row > * { background: var(--mark); font-weight: 600; }
.held { color: var(--good); font-weight: 600; white-space: nowrap; } .failed { color: var(--bad); font-weight: 600; }
.fingerprint { font: 13px/1.4 ui-monospace, monospace; overflow-wrap: anywhere; }
figure { margin: 20px 0; }
figcaption { margin-bottom: 10px; font-size: 15px; line-height: 1.4; }
figcaption strong { display: block; }
details { margin-top: 8px; font-size: 14px; } summary { cursor: pointer; color: var(--quiet); }
.pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 330px), 1fr)); gap: 8px 40px; }
.pair > figure { display: grid; grid-row: span 3; grid-template-rows: subgrid; gap: 0; align-content: start; min-width: 0; margin: 14px 0; }
@media screen and (min-width: 1140px) {
  .trio:has(figure:nth-child(3)) { width: 1100px; margin-left: -190px; grid-template-columns: repeat(3, 340px); }
}
.only-narrow { display: none; }
@media screen and (max-width: 480px) { th, td { padding-right: 10px; } table { font-size: 14px; } .deck { font-size: 18px; } body > header { padding-top: 32px; } }
@media screen and (max-width: 751px) { .only-wide { display: none; } .only-narrow { display: block; } }
svg { display: block; max-width: 100%; height: auto; font-family: system-ui, sans-serif; font-variant-numeric: tabular-nums; }
svg text { fill: var(--ink); } svg .quiet { fill: var(--quiet); } svg .over { paint-order: stroke; stroke: var(--paper); stroke-width: 4px; stroke-linejoin: round; } svg .strong { font-weight: 600; }
svg .grid { stroke: var(--grid); } svg .axis, svg .rule { stroke: var(--rule); } svg .mark { fill: var(--mark); }
svg .series-base { fill: var(--base); } svg .series-on { fill: var(--on); } svg .series-replay { fill: var(--replay); }
svg .series-off { fill: none; stroke: var(--base); stroke-width: 1.5; }
svg .line { fill: none; stroke-width: 2; stroke-linejoin: round; }
svg .line.series-base { stroke: var(--base); } svg .line.series-on { stroke: var(--on); } svg .line.series-replay { stroke: var(--replay); stroke-dasharray: 7 3; }
svg .series-a { fill: var(--replay); } svg .series-b { fill: var(--on); } svg .series-c { fill: var(--good); } svg .series-d { fill: var(--wrong); } svg .series-e { fill: var(--base); } svg .series-f { fill: var(--ink); }
svg .line.series-a { stroke: var(--replay); } svg .line.series-b { stroke: var(--on); } svg .line.series-c { stroke: var(--good); stroke-dasharray: 7 3; } svg .line.series-d { stroke: var(--wrong); stroke-dasharray: 3 3; } svg .line.series-e { stroke: var(--base); stroke-dasharray: 10 4; } svg .line.series-f { stroke: var(--ink); stroke-dasharray: 2 4; }
svg .line[class*="series-"] { fill: none; }
svg .cell { fill: none; stroke: var(--grid); } svg .cell-right { fill: var(--right); } svg .cell-wrong { fill: var(--wrong); }
svg .ink-on-right { fill: #ffffff; } svg .ink-on-wrong { fill: var(--on-wrong); }
.swatch { display: inline-block; width: 11px; height: 11px; margin-right: 5px; }
.swatch.right { background: var(--right); } .swatch.wrong { background: var(--wrong); }
.digits { display: grid; grid-template-columns: repeat(auto-fill, minmax(124px, 1fr)); gap: 22px 20px; padding: 0; list-style: none; font-size: 14px; line-height: 1.4; }
.digits img { display: block; width: 84px; height: 84px; margin-bottom: 6px; image-rendering: pixelated; border: 1px solid var(--rule); }
.digits dl { display: grid; grid-template-columns: auto 1fr; gap: 0 8px; margin: 0; }
.digits dt { color: var(--quiet); } .digits dd { margin: 0; }
body > footer { margin-top: 56px; margin-bottom: 40px; padding-top: 16px; border-top: 1px solid var(--rule); font-size: 14px; color: var(--quiet); }
@page { margin: 16mm 14mm; }
@media print {
  body { padding: 0; font-size: 10.5pt; }
  body > header { padding-top: 0; }
  .deck { font-size: 13pt; }
  nav, details { display: none; }
  section { margin-top: 24pt; }
  main > section + section { padding-top: 18pt; }
  h1, h2, h3, figcaption, caption { break-after: avoid; }
  .pair { grid-template-columns: repeat(2, 1fr); column-gap: 24px; }
  .digits { grid-template-columns: repeat(5, 1fr); gap: 14px; }
  h3 + p { break-after: avoid; }
  figure, tr, .digits li, .note, li, .scroll { break-inside: avoid; }
  p { orphans: 3; widows: 3; }
  .scroll { overflow: visible; }
  svg, .whole { white-space: nowrap; } .loose { white-space: normal; }
.mark-row > *, .note, .swatch { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
}
`;
