// Tables of data: each scrolls in a box of its own, so that a wide one never makes the page wider than a phone.
import { type Content, html, type Markup } from "./html.ts";

export interface Column {
  title: Content;
  /** Numbers stand flush right. */
  numeric: boolean;
}

export interface DataTable {
  /** What the table holds, above it; also the name of its scroll box. */
  caption: string;
  columns: readonly Column[];
  /** The first cell of each row is its heading. */
  rows: readonly (readonly Content[])[];
  /** A last row that sums up; null for none. */
  total?: readonly Content[];
  /** The row to draw attention to, from 0. */
  highlighted?: number | undefined;
}

export function text(title: Content): Column {
  return { title, numeric: false };
}

export function numeric(title: Content): Column {
  return { title, numeric: true };
}

export function dataTable(table: DataTable): Markup {
  const head = table.columns.map((column) => html`<th scope="col"${align(column)}>${column.title}</th>`);
  const rows = table.rows.map(
    (
      cells,
      index,
    ) => html`<tr${index === table.highlighted && html` class="mark-row"`}>${row(table.columns, cells)}</tr>
`,
  );
  const total = table.total && html`<tfoot><tr>${row(table.columns, table.total)}</tr></tfoot>`;
  return html`<div class="scroll" role="region" aria-label="${table.caption}" tabindex="0"><table>
<caption><span>${table.caption}</span></caption>
<thead><tr>${head}</tr></thead>
<tbody>
${rows}</tbody>${total ?? null}
</table></div>
`;
}

function row(columns: readonly Column[], cells: readonly Content[]): Markup[] {
  return cells.map((cell, index) => {
    const column = columns[index] ?? text("");
    return index === 0 ? html`<th scope="row"${align(column)}>${cell}</th>` : html`<td${align(column)}>${cell}</td>`;
  });
}

function align(column: Column): Markup | null {
  return column.numeric ? html` class="number"` : null;
}
