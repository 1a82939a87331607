// The run folder of the domain suite: settings, an adapter and a result for each finished domain.
import { access, mkdir, readdir, rm } from "node:fs/promises";
import { join } from "node:path";
import { writeAdapter } from "../../adapter/peft.ts";
import type { Mnist } from "../../data/mnist.ts";
import { LowrankError } from "../../errors.ts";
import type { Model } from "../../onnx/model.ts";
import { writeModel } from "../../onnx/write.ts";
import { fileError } from "../../runs/file-error.ts";
import { readFileChecked, writeFileAtomic, writeFolderAtomic } from "../../runs/files.ts";
import type { DomainResult, RouterResult } from "./result.ts";
import type { Domain, DomainOptions } from "./suite.ts";
import { type TuneContext, tuneDomain, tuningNotes } from "./tune.ts";

const plainName = (name: string): string => name.replace(":", "-");

/** The folder of a domain's adapter. */
export function adapterName(domain: string): string {
  return `adapter-${plainName(domain)}`;
}

const resultName = (domain: string): string => `domain-${plainName(domain)}.json`;

/** The result of a domain, null where it is not finished. */
export async function finished(out: string, { name }: Domain): Promise<DomainResult | null> {
  const path = join(out, resultName(name));
  return (await exists(path)) ? (JSON.parse(await readText(path)) as DomainResult) : null;
}

/** Tunes a domain, and keeps its adapter and result. The result is written last: where it is, the adapter is too. */
export async function runDomain(out: string, domain: Domain, context: TuneContext): Promise<void> {
  const { result, adapter } = await tuneDomain(domain, context);
  await writeFolderAtomic(join(out, adapterName(domain.name)), writeAdapter(adapter));
  await writeJson(join(out, resultName(domain.name)), result);
}

const routerName = "router.json";

/** The router over these domains, null where there is none yet, or one over others. */
export async function finishedRouter(out: string, domains: readonly Domain[]): Promise<RouterResult | null> {
  const path = join(out, routerName);
  if (!(await exists(path))) return null;
  const { names, result } = JSON.parse(await readText(path)) as { names: string[]; result: RouterResult };
  return names.join() === namesOf(domains).join() ? result : null;
}

/** Keeps the router; as with a domain, the result is written last. */
export async function keepRouter(
  out: string,
  domains: readonly Domain[],
  { model, result }: { readonly model: Model; readonly result: RouterResult },
): Promise<void> {
  await rm(join(out, routerName), { force: true });
  await writeFileAtomic(join(out, "router.onnx"), writeModel(model));
  await writeJson(join(out, routerName), { names: namesOf(domains), result });
}

const namesOf = (domains: readonly Domain[]): string[] => domains.map(({ name }) => name);

const settingsName = "domains.json";

/**
 * Makes the folder, or makes sure that it holds a run with the same settings and data.
 *
 * @throws LowrankError "file" for a folder of other settings, data or files.
 */
export async function openFolder(out: string, options: DomainOptions, { source, train, test }: Mnist): Promise<void> {
  // Which domains are run, where, and on how many threads, may differ from call to call.
  const { only: _only, device: _device, threads: _threads, ...settings } = options;
  const own = JSON.stringify(
    { settings, tuning: tuningNotes, data: { sha256: source.sha256, train: train.count, test: test.count } },
    null,
    2,
  );
  const path = join(out, settingsName);
  const entries = await mkdir(out, { recursive: true })
    .then(() => readdir(out))
    .catch((error: unknown) => {
      throw fileError(out, "write", error);
    });
  if (entries.length === 0) return writeFileAtomic(path, `${own}\n`);
  if (!entries.includes(settingsName))
    throw new LowrankError(
      "file",
      `${out}: expected a new folder or that of a domains run, got other files; use --out`,
    );
  if ((await readText(path)).trim() !== own)
    throw new LowrankError(
      "file",
      `${path}: expected the settings and data of this run, got others; use --out for another folder, or remove this one`,
    );
}

export async function writeJson(path: string, value: unknown): Promise<void> {
  await writeFileAtomic(path, `${JSON.stringify(value, null, 2)}\n`);
}

async function readText(path: string): Promise<string> {
  return new TextDecoder().decode(await readFileChecked(path));
}

/** Whether there is such a file. */
export function exists(path: string): Promise<boolean> {
  return access(path).then(
    () => true,
    () => false,
  );
}
