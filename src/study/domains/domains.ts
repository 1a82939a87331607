// The domain suite from the data to the chart. The base, each finished domain and the router are files in the run folder, and a
// second run into the same folder, with the same settings, goes on with those that are missing.
import { join } from "node:path";
import { loadMnist, type Mnist } from "../../data/mnist.ts";
import { LowrankError } from "../../errors.ts";
import type { Adapter } from "../../lora/config.ts";
import { attachAll, withWeights } from "../../lora/full.ts";
import type { Model } from "../../onnx/model.ts";
import { readModel } from "../../onnx/read.ts";
import { writeModel } from "../../onnx/write.ts";
import { createRandom } from "../../random.ts";
import { loadAdapter } from "../../runs/adapter-files.ts";
import { readFileChecked, writeFileAtomic } from "../../runs/files.ts";
import { checkDevice } from "../../runtime/session.ts";
import { createSession } from "../../train/infer.ts";
import { trainAll } from "../../train/train.ts";
import { epochBatches, range } from "../batches.ts";
import { studyNetwork } from "../network.ts";
import { studyDefaults } from "../options.ts";
import { silentVoice, type Voice } from "../voice.ts";
import { adapterName, exists, finished, finishedRouter, keepRouter, openFolder, writeJson } from "./folder.ts";
import { tuneDomains } from "./pool.ts";
import { domainsPage, domainsSvg, tableText } from "./report.ts";
import type { DomainsSummary, RouterResult } from "./result.ts";
import { routeDomains } from "./router.ts";
import { checkDomainOptions, chosenDomains, type Domain, type DomainOptions, domainDefaults } from "./suite.ts";
import { accuracyOf, selected, type TuneContext } from "./tune.ts";

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
  const missing: Domain[] = [];
  for (const domain of domains) if ((await finished(out, domain)) === null) missing.push(domain);
  const progress = voice.progress("domains", domains.length, "domains");
  let done = domains.length - missing.length;
  try {
    progress.update(done);
    await tuneDomains(out, missing, context, () => progress.update(++done));
    progress.done();
  } catch (error) {
    progress.clear();
    throw error;
  }
  const results = await Promise.all(domains.map(async (domain) => (await finished(out, domain))!));
  const session = await createSession(context.base, context.session);
  const base = await accuracyOf(session, context.test, null, context.signal).finally(() => session.dispose());
  return {
    version: 1,
    data: { source: mnist.source.description, train: mnist.train.count, test: mnist.test.count },
    settings: context.options,
    base,
    domains: results,
    router: await routerOver(out, domains, context, voice),
  };
}

/** The router over the image transforms, null of fewer than two; kept in the folder. */
async function routerOver(
  out: string,
  domains: readonly Domain[],
  context: TuneContext,
  voice: Voice,
): Promise<RouterResult | null> {
  const images = domains.filter(({ digit }) => digit === null);
  if (images.length < 2) return null;
  const kept = await finishedRouter(out, images);
  if (kept !== null) return kept;
  const adapters = new Map<string, Adapter>();
  for (const { name } of images) adapters.set(name, await loadAdapter(join(out, adapterName(name))));
  const routed = await routeDomains(images, adapters, context, voice);
  await keepRouter(out, images, routed);
  return routed.result;
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
