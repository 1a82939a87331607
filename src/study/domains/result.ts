// What a run of the domain suite leaves behind, as JSON.
import type { DomainOptions } from "./suite.ts";

export const methodNames = ["lora", "replay", "full", "head"] as const;
export type MethodName = (typeof methodNames)[number];

/** What one way of tuning brought. Accuracies are shares of 1. */
export interface MethodResult {
  readonly target: number;
  /** On plain digits, with what was tuned in place. */
  readonly plain: number;
  readonly parameters: number;
  /** Of the file that has to be kept for this domain. */
  readonly bytes: number;
  readonly seconds: number;
}

/** One domain; a file of its own in the run folder. */
export interface DomainResult {
  readonly name: string;
  /** Target accuracy of the base. */
  readonly before: number;
  readonly methods: Readonly<Record<MethodName, MethodResult>>;
}

export interface RouterResult {
  /** Domains that it tells apart, the plain digits among them. */
  readonly domains: number;
  /** How often it names the right one. */
  readonly accuracy: number;
  /** Accuracy of the digits over all these domains, each image with the adapter of the domain that the router names. */
  readonly routed: number;
  /** The same with the adapter of the image's own domain. */
  readonly known: number;
  readonly parameters: number;
}

export interface DomainsSummary {
  readonly version: 1;
  readonly data: { readonly source: string; readonly train: number; readonly test: number };
  readonly settings: DomainOptions;
  /** The base on plain digits. */
  readonly base: number;
  readonly domains: readonly DomainResult[];
  /** null where fewer than two image transforms were run. */
  readonly router: RouterResult | null;
}
