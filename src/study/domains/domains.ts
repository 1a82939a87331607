// The domain suite from the data to the chart. Each finished domain is a file in the run folder, and a second run into the same
// folder, with the same settings, goes on with those that are missing.
import { access, mkdir, readdir } from "node:fs/promises";
import { join } from "node:path";
import { writeAdapter } from "../../adapter/peft.ts";
import { loadMnist, type Mnist } from "../../data/mnist.ts";
import { LowrankError } from "../../errors.ts";
import type { Adapter } from "../../lora/config.ts";
import { attachAll, withWeights } from "../../lora/full.ts";
import type { Model } from "../../onnx/model.ts";
import { readModel } from "../../onnx/read.ts";
import { writeModel } from "../../onnx/write.ts";
import { createRandom } from "../../random.ts";
import { loadAdapter } from "../../runs/adapter-files.ts";
import { fileError } from "../../runs/file-error.ts";
import { readFileChecked, writeFileAtomic, writeFolderAtomic } from "../../runs/files.ts";
import { checkDevice } from "../../runtime/session.ts";
import { createSession } from "../../train/infer.ts";
import { trainAll } from "../../train/train.ts";
import { epochBatches, range } from "../batches.ts";
import { studyNetwork } from "../network.ts";
import { studyDefaults } from "../options.ts";
import { silentVoice, type Voice } from "../voice.ts";
import { domainsPage, domainsSvg, tableText } from "./report.ts";
import type { DomainResult, DomainsSummary } from "./result.ts";
import { routeDomains } from "./router.ts";
import { checkDomainOptions, chosenDomains, type Domain, type DomainOptions, domainDefaults } from "./suite.ts";
import { accuracyOf, selected, type TuneContext, tuneDomain } from "./tune.ts";

export interface DomainsEnvironment {
  /** The folder with MNIST; see loadMnist for where else it is looked for. */
  readonly data?: string;
  /** The run folder; default runs/domains. */
  readonly out?: string;
  readonly voice?: Voice;
  /** Stops between two steps; finished domains are kept. */
  readonly signal?: AbortSignal;
}

/**
 * Trains an adapter for each domain on one base, beside the other ways of tuning, and says what each learns and forgets.
 *
 * @throws LowrankError "config" or "data" before anything is trained, "file" for a folder with other settings or files,
 * "aborted" when it was stopped.
 * @example const { summary } = await runDomains({ only: ["rotation:30", "invert"], limit: 10000 });
 */
export async function runDomains(
  given: Partial<DomainOptions> = {},
  environment: DomainsEnvironment = {},
): Promise<{ readonly folder: string; readonly summary: DomainsSummary }> {
  const options: DomainOptions = { ...domainDefaults, ...given };
  checkDomainOptions(options);
  const { voice = silentVoice, signal = new AbortController().signal, out = join("runs", "domains") } = environment;
  const { device, reason } = await checkDevice({ device: options.device, threads: options.threads });
  if (options.device === "auto") voice.say(`Device auto: ${device} (${reason}).`);
  const session = { device, threads: options.threads };
  const mnist = limited(await findData(environment, voice, signal), options);
  await openFolder(out, options, mnist);
  try {
    const base = await baseModel(out, { options, session }, mnist, voice, signal);
    const context: TuneContext = { options, base, train: mnist.train, test: mnist.test, signal, session };
    const summary = await runSuite(out, context, mnist, voice);
    await writeJson(join(out, "summary.json"), summary);
    await writeFileAtomic(join(out, "report.html"), domainsPage(summary));
    await writeFileAtomic(join(out, "chart.svg"), domainsSvg(summary));
    voice.say(tableText(summary));
    voice.say(`Chart and table: ${join(out, "report.html")}`);
    return { folder: out, summary };
  } catch (error) {
    if (!signal.aborted) throw error;
    throw new LowrankError("aborted", `stopped on request: finished domains are in ${out}; run again to go on`, {
      cause: error,
    });
  }
}

async function runSuite(out: string, context: TuneContext, mnist: Mnist, voice: Voice): Promise<DomainsSummary> {
  const domains = chosenDomains(context.options);
  const results: DomainResult[] = [];
  const progress = voice.progress("domains", domains.length, "domains");
  try {
    for (const domain of domains) {
      results.push((await finished(out, domain)) ?? (await runDomain(out, domain, context)));
      progress.update(results.length);
    }
    progress.done();
  } catch (error) {
    progress.clear();
    throw error;
  }
  const images = domains.filter(({ digit }) => digit === null);
  const adapters = new Map<string, Adapter>();
  for (const { name } of images) adapters.set(name, await loadAdapter(join(out, adapterName(name))));
  const session = await createSession(context.base, context.session);
  const base = await accuracyOf(session, context.test, null, context.signal).finally(() => session.dispose());
  return {
    version: 1,
    data: { source: mnist.source.description, train: mnist.train.count, test: mnist.test.count },
    settings: context.options,
    base,
    domains: results,
    router: images.length < 2 ? null : await routeDomains(images, adapters, context),
  };
}

const plainName = (name: string): string => name.replace(":", "-");
const adapterName = (domain: string): string => `adapter-${plainName(domain)}`;
const resultName = (domain: string): string => `domain-${plainName(domain)}.json`;

/** The result of a domain that an earlier call has finished. */
async function finished(out: string, { name }: Domain): Promise<DomainResult | null> {
  const path = join(out, resultName(name));
  return (await exists(path)) ? (JSON.parse(await readText(path)) as DomainResult) : null;
}

/** The result is written last: where it is, the adapter is too. */
async function runDomain(out: string, domain: Domain, context: TuneContext): Promise<DomainResult> {
  const { result, adapter } = await tuneDomain(domain, context);
  await writeFolderAtomic(join(out, adapterName(domain.name)), writeAdapter(adapter));
  await writeJson(join(out, resultName(domain.name)), result);
  return result;
}

/** The study's network with a linear head, trained as the study trains it; kept in the folder. */
async function baseModel(
  out: string,
  { options, session }: Pick<TuneContext, "options" | "session">,
  { train }: Mnist,
  voice: Voice,
  signal: AbortSignal,
): Promise<Model> {
  const path = join(out, "base.onnx");
  if (await exists(path)) return readModel(await readFileChecked(path), path);
  const { batch, learningRate, epochs } = studyDefaults;
  const network = studyNetwork("linear", options.seed);
  const trainable = attachAll(network);
  const steps = Math.ceil(train.count / batch) * epochs;
  const progress = voice.progress("training the base", steps);
  const batches = epochBatches(train, range(train.count), batch, epochs, createRandom(options.seed, "shuffle"));
  const { tensors } = await trainAll(trainable, batches, {
    ...session,
    learningRate,
    signal,
    onStep: ({ step, loss }) => progress.update(step, { loss }),
  }).finally(() => progress.clear());
  await trainable.dispose();
  signal.throwIfAborted();
  const model = withWeights(network, tensors);
  await writeFileAtomic(path, writeModel(model));
  return model;
}

const settingsName = "domains.json";

/** Makes the folder, or makes sure that it holds a run with the same settings and data. */
async function openFolder(out: string, options: DomainOptions, { source, train, test }: Mnist): Promise<void> {
  // Which domains are run, where, and on how many threads, may differ from call to call.
  const { only: _only, device: _device, threads: _threads, ...settings } = options;
  const own = JSON.stringify(
    { settings, data: { sha256: source.sha256, train: train.count, test: test.count } },
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

async function findData({ data }: DomainsEnvironment, voice: Voice, signal: AbortSignal): Promise<Mnist> {
  return loadMnist({
    ...(data !== undefined && { directory: data }),
    signal,
    onProgress: (event) => {
      if (event.kind === "note") voice.warn(event.message);
    },
  });
}

/** A random choice of images where fewer are asked for, the study's own. */
function limited(mnist: Mnist, { limit, seed }: DomainOptions): Mnist {
  if (limit === null) return mnist;
  const some = (part: "train" | "test") => {
    const set = mnist[part];
    const order = range(set.count);
    createRandom(seed, `limit ${part}`).shuffle(order);
    return limit >= set.count ? set : selected(set, order.subarray(0, limit));
  };
  return { ...mnist, train: some("train"), test: some("test") };
}

async function writeJson(path: string, value: unknown): Promise<void> {
  await writeFileAtomic(path, `${JSON.stringify(value, null, 2)}\n`);
}

async function readText(path: string): Promise<string> {
  return new TextDecoder().decode(await readFileChecked(path));
}

function exists(path: string): Promise<boolean> {
  return access(path).then(
    () => true,
    () => false,
  );
}
