import { afterEach, expect, it, vi } from "vitest";
import { checkDevice } from "../runtime/session.ts";
import { runSession } from "./run-session.ts";

vi.mock("../runtime/session.ts", () => ({ checkDevice: vi.fn() }));
const check = vi.mocked(checkDevice);

afterEach(() => check.mockReset());

it("opens sessions on the device that was asked for, and says nothing of it", async () => {
  check.mockResolvedValue({ device: "webgpu", reason: "as asked" });
  const tell = vi.fn();
  expect(await runSession({ device: "webgpu", threads: 2 }, tell)).toEqual({ device: "webgpu", threads: 2 });
  expect(check).toHaveBeenCalledExactlyOnceWith({ device: "webgpu", threads: 2 });
  expect(tell).not.toHaveBeenCalled();
});

it("tells what auto has chosen, and why, and stays with it", async () => {
  check.mockResolvedValue({ device: "cpu", reason: "WebGPU found no GPU" });
  const tell = vi.fn();
  expect(await runSession({ device: "auto", threads: null }, tell)).toEqual({ device: "cpu" });
  expect(tell).toHaveBeenCalledExactlyOnceWith("Device auto: cpu (WebGPU found no GPU).");
});
