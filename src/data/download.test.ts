import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { gzipSync } from "node:zlib";
import { describe, expect, it, onTestFinished } from "vitest";
import { type DownloadOptions, type DownloadProgress, type DownloadResult, download } from "./download.ts";
import type { PublishedFile } from "./files.ts";
import { failure, packed, sampleSet } from "./testing/samples.ts";

const { contents, catalogue } = sampleSet();
const archives = packed(contents);
const files: PublishedFile[] = Object.values(catalogue);

type Handler = (request: IncomingMessage, response: ServerResponse, attempt: number) => void;

/** A server on this machine; `attempt` counts the requests for the same file from 1. */
async function serve(handler: Handler): Promise<{ mirror: string; requests: string[] }> {
  const requests: string[] = [];
  const server = createServer((request, response) => {
    requests.push(request.url!);
    handler(request, response, requests.filter((url) => url === request.url).length);
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  onTestFinished(() => {
    server.closeAllConnections();
    server.close();
  });
  return { mirror: `http://127.0.0.1:${(server.address() as AddressInfo).port}/mnist`, requests };
}

const archiveOf = (request: IncomingMessage): Uint8Array => archives.get(request.url!.split("/").at(-1)!)!;
const good: Handler = (request, response) => response.end(archiveOf(request));

/** What is sent instead of train-images, once; the other files are good. */
const spoilt =
  (spoil: Handler): Handler =>
  (request, response, attempt) =>
    (request.url!.includes("train-images") ? spoil : good)(request, response, attempt);

function run(mirrors: string[], options: Partial<DownloadOptions> = {}): Promise<DownloadResult> {
  const times = { connect: 500, stall: 400, backoff: 1 };
  return download(files, { mirrors, times, fetch, onProgress: () => {}, signal: undefined, ...options });
}

async function faultsOf(result: Promise<DownloadResult>): Promise<{ faults: string[]; wrong: boolean }> {
  const outcome = await result;
  if (outcome.ok) throw new Error("expected a failed download");
  return { faults: outcome.faults, wrong: outcome.wrong };
}

/** The address of a port where nothing listens. */
async function closedPort(): Promise<string> {
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const { port } = server.address() as AddressInfo;
  await new Promise((resolve) => server.close(resolve));
  return `http://127.0.0.1:${port}/`;
}

describe("download from a good mirror", () => {
  it("gives the archives as they came and their content, with progress", async () => {
    const { mirror, requests } = await serve(good);
    const events: DownloadProgress[] = [];
    const result = await run([mirror], { onProgress: (event) => events.push(event) });
    expect(result).toEqual({ ok: true, archives: expect.any(Map), contents, mirrors: [mirror] });
    if (result.ok) {
      for (const [name, bytes] of result.archives) expect(bytes).toEqual(Uint8Array.from(archives.get(`${name}.gz`)!));
    }
    expect(requests).toEqual(files.map(({ name }) => `/mnist/${name}.gz`));
    for (const { name } of files) {
      const last = events.findLast((event) => event.file === name);
      const total = archives.get(`${name}.gz`)!.length;
      expect(last).toEqual({ kind: "download", file: name, url: `${mirror}/${name}.gz`, received: total, total });
    }
  });

  it.each<[string, Handler]>([
    ["answers in chunks", (request, response) => response.write(archiveOf(request), () => response.end())],
    [
      "has the archives unpacked on the way",
      (request, response) => response.writeHead(200, { "content-encoding": "gzip" }).end(archiveOf(request)),
    ],
  ])("knows no total where the server %s", async (_, handler) => {
    const { mirror } = await serve(handler);
    const totals: (number | null)[] = [];
    const result = await run([mirror], { onProgress: ({ total }) => totals.push(total) });
    expect(result).toMatchObject({ ok: true, contents });
    expect(new Set(totals)).toEqual(new Set([null]));
  });
});

describe("download from a mirror with a fault that may pass", () => {
  const cutOff: Handler = (request, response) => {
    const archive = archiveOf(request);
    response.writeHead(200, { "content-length": archive.length });
    response.write(archive.subarray(0, archive.length - 4), () => response.destroy());
  };
  const stalled: Handler = (request, response) => void response.write(archiveOf(request).subarray(0, 20));

  it.each<[string, Handler]>([
    ["HTTP 500", (_, response) => response.writeHead(500).end("later")],
    ["HTTP 429", (_, response) => response.writeHead(429).end()],
    ["a body that is cut off", cutOff],
    ["a body that stalls", stalled],
    ["a connection that is dropped", (request) => request.socket.destroy()],
  ])("tries again after %s, and then gets it", async (_, fault) => {
    const { mirror, requests } = await serve(
      spoilt((request, response, attempt) => (attempt < 3 ? fault : good)(request, response, attempt)),
    );
    expect(await run([mirror])).toMatchObject({ ok: true, contents });
    expect(requests.filter((url) => url.includes("train-images"))).toHaveLength(3);
  });

  it("gives up after three tries and goes on with the next mirror, for what is missing", async () => {
    const broken = await serve((request, response, attempt) =>
      request.url!.includes("t10k-images") ? response.writeHead(503).end() : good(request, response, attempt),
    );
    const fine = await serve(good);
    expect(await run([broken.mirror, fine.mirror])).toMatchObject({ ok: true, mirrors: [broken.mirror, fine.mirror] });
    expect(broken.requests.filter((url) => url.includes("t10k-images"))).toHaveLength(3);
    expect(fine.requests).toEqual(["/mnist/t10k-images-idx3-ubyte.gz", "/mnist/t10k-labels-idx1-ubyte.gz"]);
  });
});

describe("download from a mirror that cannot be used", () => {
  it.each<[string, Handler, string, number]>([
    ["HTTP 404", (_, response) => response.writeHead(404).end("<html>"), "HTTP 404", 1],
    ["HTTP 500 each time", (_, response) => response.writeHead(500).end(), "HTTP 500", 3],
    ["silence", () => {}, "no answer within 0.5 s", 1],
    ["dropped connections", (request) => request.socket.destroy(), "UND_ERR_SOCKET", 3],
  ])("names %s", async (_, handler, fault, tries) => {
    const { mirror, requests } = await serve(handler);
    const { faults, wrong } = await faultsOf(run([mirror]));
    expect(faults).toEqual([`${mirror}/train-images-idx3-ubyte.gz: ${fault}`]);
    expect(wrong).toBe(false);
    expect(requests).toHaveLength(tries);
  });

  it("gives up at once where nothing listens or no name is found", async () => {
    const noName: typeof fetch = async () => {
      const cause = Object.assign(new Error("getaddrinfo EAI_AGAIN a.test"), { code: "EAI_AGAIN" });
      throw new TypeError("fetch failed", { cause });
    };
    const started = Date.now();
    const closed = await closedPort();
    const unslept = { times: { connect: 5000, stall: 5000, backoff: 5000 } };
    expect((await faultsOf(run([closed], unslept))).faults).toEqual([
      `${closed}train-images-idx3-ubyte.gz: ECONNREFUSED`,
    ]);
    expect((await faultsOf(run(["http://a.test/", "http://b.test/"], { ...unslept, fetch: noName }))).faults).toEqual([
      "http://a.test/train-images-idx3-ubyte.gz: EAI_AGAIN",
      "http://b.test/train-images-idx3-ubyte.gz: EAI_AGAIN",
    ]);
    expect(Date.now() - started).toBeLessThan(1000);
  });

  it("gives two silent mirrors their time once, not once for each file and try", async () => {
    const mirrors = [(await serve(() => {})).mirror, (await serve(() => {})).mirror];
    const started = Date.now();
    expect((await faultsOf(run(mirrors))).faults).toHaveLength(2);
    expect(Date.now() - started).toBeLessThan(2000);
  });

  it("refuses an address that is none", async () => {
    expect(await failure(() => run(["mirror"]))).toMatchObject({
      code: "config",
      message: "mirrors: expected web addresses, got mirror",
    });
  });
});

describe("download from a mirror that sends something else", () => {
  const images = contents.get("train-images-idx3-ubyte")!;
  const changed = images.slice();
  changed[1000]! ^= 1;
  it.each<[string, Uint8Array, string]>([
    ["one changed bit", gzipSync(changed), "expected SHA-256"],
    ["a login page", new TextEncoder().encode("<html>Welcome</html>"), "expected SHA-256"],
    ["nothing", new Uint8Array(0), "expected SHA-256"],
    ["a truncated archive", gzipSync(images).subarray(0, -4), "the gzip archive is truncated"],
    ["a gzip bomb", gzipSync(new Uint8Array(8 << 20)), `expected at most ${images.length} bytes of content`],
    ["no end of bytes", new Uint8Array(3 << 20), `expected at most ${images.length + (1 << 20)} bytes, got more`],
  ])("refuses %s, and takes the next mirror", async (_, body, fault) => {
    const bad = await serve(spoilt((_request, response) => void response.end(body)));
    const { faults, wrong } = await faultsOf(run([bad.mirror]));
    expect(faults).toEqual([expect.stringContaining(fault)]);
    expect(faults[0]).toContain("train-images-idx3-ubyte");
    expect(wrong).toBe(true);
    expect(bad.requests).toHaveLength(1);
    const fine = await serve(good);
    expect(await run([bad.mirror, fine.mirror])).toMatchObject({ ok: true, contents, mirrors: [fine.mirror] });
  });
});

describe("download, stopped on request", () => {
  it.each<[string, Handler]>([
    ["while it waits for an answer", () => {}],
    ["in the middle of a body", (request, response) => void response.write(archiveOf(request).subarray(0, 20))],
    ["between two tries", (_, response) => response.writeHead(500).end()],
  ])("ends at once %s", async (_, handler) => {
    const { mirror } = await serve(handler);
    const controller = new AbortController();
    setTimeout(() => controller.abort(), 50);
    const started = Date.now();
    const times = { connect: 10_000, stall: 10_000, backoff: 10_000 };
    const error = await failure(() => run([mirror], { times, signal: controller.signal }));
    expect(error).toMatchObject({ code: "aborted", message: "download of MNIST: stopped on request" });
    expect(Date.now() - started).toBeLessThan(1000);
  });
});
