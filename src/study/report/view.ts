// One head's results as the sections read them, and the few sums that more than one of them needs.

import { count, fixed, many } from "../../runs/report/format.ts";
import type { Head, HeadDetail, HeadSummary, StudyResult, StudySummary } from "../result.ts";

export const DIGITS: readonly number[] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9];

export interface HeadView {
  head: Head;
  summary: HeadSummary;
  /** null where a run left only its summary. */
  detail: HeadDetail | null;
  study: StudySummary;
}

/** The heads that were run, the documented one first. */
export function headViews(result: StudyResult): HeadView[] {
  const heads: Head[] = ["relu", "linear"];
  return heads.flatMap((head) => {
    const summary = result.summary.heads[head];
    return summary ? [{ head, summary, detail: result.details[head] ?? null, study: result.summary }] : [];
  });
}

export function headName(head: Head): string {
  return head === "relu" ? "ReLU head" : "linear head";
}

export function sum(values: readonly number[]): number {
  return values.reduce((total, value) => total + value, 0);
}

/** Wrongly read images of every digit but one. */
export function wrongOnOthers(wrong: readonly number[], digit: number): number {
  return sum(wrong.filter((_, index) => index !== digit));
}

/** Test images of a digit; null where nothing tells. */
export function imagesOf(view: HeadView, digit: number): number | null {
  const row = view.detail?.confusion.base[digit];
  return row ? sum(row) : null;
}

/** Accuracy with as many decimals as the test images can tell apart: four for 10,000. */
export function accuracy(view: HeadView, value: number): string {
  return fixed(value, Math.min(6, Math.max(3, Math.ceil(Math.log10(view.study.data.test)))));
}

/** "1,032 of its 1,032 images", or "1,032 of its images" where the total is not known. */
export function wrongOfDigit(view: HeadView, digit: number): string {
  const wrong = view.summary.base.wrong[digit] ?? 0;
  const images = imagesOf(view, digit);
  return images === null ? `${count(wrong)} of its images` : `${count(wrong)} of its ${many(images, "image")}`;
}

export function deadDigits(view: HeadView): number[] {
  return view.summary.base.deadOutputs.map((output) => output.digit).sort((one, other) => one - other);
}

export function isDead(view: HeadView, digit: number): boolean {
  return deadDigits(view).includes(digit);
}
