// Running a model with any adapter, or none, in one session. Adapters are inputs, so switching is free; one of another
// rank or scale than the graph was built for fits too, since the rank is a symbol and the scale moves into B.
import { LowrankError } from "../errors.ts";
import { AdaptedModel } from "../lora/adapted.ts";
import type { Adapter } from "../lora/config.ts";
import { factorFault } from "../lora/factors.ts";
import { currentWeights } from "../lora/full.ts";
import { disabledTensors } from "../lora/init.ts";
import { scaleOf } from "../lora/scale.ts";
import type { Model } from "../onnx/model.ts";
import { openSession, type Session, type SessionOptions, type Tensors } from "../runtime/session.ts";
import { type Tensor, tensor } from "../tensor.ts";
import { placedOn } from "./place.ts";
import { throwMisfits } from "./step.ts";

export interface AdapterSession {
  /**
   * Runs the model; `adapter` null (the default) is the base itself.
   * @throws LowrankError "data" when inputs are missing, "adapter" when the adapter does not fit.
   */
  run(inputs: Readonly<Record<string, Tensor>>, options?: { adapter?: Adapter | null }): Promise<Map<string, Tensor>>;
  dispose(): Promise<void>;
}

/**
 * A session for a plain model, or for an adapted one with its adapter switched at each run.
 *
 * @example
 * const session = await createSession(attachLora(model, adapter.config));
 * const { logits } = Object.fromEntries(await session.run({ x }, { adapter }));
 */
export async function createSession(
  model: Model | AdaptedModel,
  options: SessionOptions = {},
): Promise<AdapterSession> {
  if (model instanceof AdaptedModel) return new SwitchingSession(model, await openSession(model.model, options));
  const session = await openSession(model, options);
  return {
    run: async (inputs, { adapter = null } = {}) => {
      if (adapter !== null)
        throw new LowrankError(
          "adapter",
          "this session runs a plain model: open it on attachLora(model, adapter.config)",
        );
      return session.run(new Map(Object.entries(inputs)));
    },
    dispose: () => session.dispose(),
  };
}

class SwitchingSession implements AdapterSession {
  readonly #adapted: AdaptedModel;
  readonly #session: Session;
  readonly #prepared = new WeakMap<Adapter, Tensors>();
  readonly #disabled: Tensors;

  constructor(adapted: AdaptedModel, session: Session) {
    this.#adapted = adapted;
    this.#session = session;
    this.#disabled = adapted.config === null ? currentWeights(adapted) : disabledTensors(adapted);
  }

  async run(
    inputs: Readonly<Record<string, Tensor>>,
    { adapter = null }: { adapter?: Adapter | null } = {},
  ): Promise<Map<string, Tensor>> {
    const tensors = adapter === null ? this.#disabled : this.#prepare(adapter);
    return this.#session.run(new Map([...tensors, ...Object.entries(inputs)]));
  }

  async dispose(): Promise<void> {
    await this.#session.dispose();
  }

  #prepare(adapter: Adapter): Tensors {
    let prepared = this.#prepared.get(adapter);
    if (prepared === undefined) {
      prepared = fitAdapter(this.#adapted, adapter);
      this.#prepared.set(adapter, prepared);
    }
    return prepared;
  }
}

/** The adapter's tensors as the graph wants them: sites that it leaves out at rank 0, another scale multiplied into B. */
function fitAdapter(adapted: AdaptedModel, given: Adapter): Tensors {
  const fitted = disabledTensors(adapted);
  const { adapter, faults } = placedOn(adapted, given);
  for (const key of adapter.tensors.keys()) if (!fitted.has(key)) faults.push(`${key}: the model has no branch for it`);
  for (const adaptedSite of adapted.sites) {
    const { site, scale, a, b, magnitude, biasOfB } = adaptedSite;
    const [A, B] = [adapter.tensors.get(a), adapter.tensors.get(b)];
    if (A === undefined && B === undefined) continue;
    const fault = factorFault(site, A, B);
    if (fault !== undefined || A?.type !== "float32" || B?.type !== "float32") {
      faults.push(`${site.modulePath}: ${fault}`);
      continue;
    }
    // Without its magnitude, the site would be another than the adapter was trained with.
    if (magnitude !== undefined && !adapter.tensors.has(magnitude))
      faults.push(
        `${site.modulePath}: expected a DoRA adapter, got one without a magnitude; attach the adapter's own config`,
      );
    const factor = scaleOf(adapter.config, site.modulePath) / scale;
    fitted.set(a, A);
    fitted.set(b, times(B, factor));
    const bias = biasOfB === undefined ? undefined : adapter.tensors.get(biasOfB);
    if (biasOfB !== undefined && bias?.type === "float32") fitted.set(biasOfB, times(bias, factor));
  }
  faults.push(...fitOthers(adapted, adapter, fitted));
  throwMisfits(faults);
  return fitted;
}

/** Takes what is trained beside A and B; what the adapter leaves out is as the base has it. Returns what does not fit. */
function fitOthers({ parameters, sites }: AdaptedModel, { tensors }: Adapter, fitted: Map<string, Tensor>): string[] {
  const scaled = new Set(sites.map(({ biasOfB }) => biasOfB));
  return parameters.flatMap(({ key, dims, start }) => {
    const value = tensors.get(key);
    if (start === undefined || value === undefined) return [];
    if (value.type !== "float32" || value.dims.join() !== dims.join())
      return [`${key}: expected float32 [${dims}], got ${value.type} [${value.dims}]`];
    if (!scaled.has(key)) fitted.set(key, value);
    return [];
  });
}

function times(value: Tensor<"float32">, factor: number): Tensor<"float32"> {
  if (factor === 1) return value;
  return tensor(
    "float32",
    value.dims,
    value.data.map((one) => one * factor),
  );
}
