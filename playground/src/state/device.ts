// What computes: WebAssembly, which reads one digit soonest, or WebGPU where there is one and people choose it.
import { type Signal, signal } from "@preact/signals";
import type { Device } from "../protocol.ts";

/** The runtime's smaller build of WebGPU suspends WebAssembly, which not every browser with a GPU can. */
async function findGpu(): Promise<boolean> {
  if (!("gpu" in navigator) || !("Suspending" in WebAssembly)) return false;
  const gpu = navigator.gpu as { requestAdapter(): Promise<unknown> };
  const adapter = await gpu.requestAdapter().catch(() => null);
  return adapter !== null;
}

const isAsked = new URLSearchParams(location.search).get("device") === "webgpu";

/** Only an address that asks for it waits for the browser to look for a GPU. */
export const device: Device = isAsked && (await findGpu()) ? "webgpu" : "wasm";

/** Whether there is a GPU to choose; known a moment after the page is there. */
export const hasGpu: Signal<boolean> = signal<boolean>(device === "webgpu");

/** Looks for one when there is time. */
export async function lookForGpu(): Promise<void> {
  hasGpu.value = await findGpu();
}

/** Loads the page anew with the other one; nothing is lost by that. */
export function useDevice(wanted: Device): void {
  location.search = wanted === "webgpu" ? "?device=webgpu" : "";
}
