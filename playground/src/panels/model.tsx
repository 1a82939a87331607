// Your model: any ONNX file, and what `lowrank inspect` says of it.

import type { VNode } from "preact";
import type { Inspection } from "../protocol.ts";
import {
  asked,
  config,
  fault,
  inspectAgain,
  inspection,
  isBusy,
  type ModelConfig,
  type ModelFile,
  mostRank,
} from "../state/inspection.ts";
import { report } from "../state/store.ts";
import { Dropzone } from "../ui/dropzone.tsx";
import { count, percent, size } from "../ui/format.ts";

/** A protobuf cannot be larger, and no browser gives a page the memory for more. */
const most = 2 ** 31 - 1;

const gradients: Readonly<Record<string, string>> = {
  rule: "yes",
  lowered: "yes, rewritten",
  zero: "zero",
  none: "no",
};

export function YourModel(): VNode {
  return (
    <section class="panel" id="model" aria-labelledby="model-title">
      <header>
        <p class="number">5</p>
        <h2 id="model-title">Your model</h2>
        <p class="lede">
          Any ONNX file: where it can be adapted, whether that can be trained, and how few numbers it takes. It stays in
          this page.
        </p>
      </header>
      <Dropzone label="Open an ONNX model" accept=".onnx" onFiles={(files) => void open(files)}>
        <b>Open an ONNX model</b>
        <span>
          Drop a .onnx file here, or press to choose. Up to 2 GB, the most that such a file can hold; reading takes
          about three times its size in memory. Weights in a file beside it cannot be read here: use{" "}
          <code>npx lowrank inspect</code>.
        </span>
      </Dropzone>
      {isBusy.value && (
        <p class="note" role="status">
          Reading {asked.value?.name} …
        </p>
      )}
      {fault.value !== null && (
        <p class="fault" role="alert">
          {fault.value}
          {"\n"}Save the model again as ONNX, whole, and drop that file here.
        </p>
      )}
      {inspection.value !== null && asked.value !== null && <Result said={inspection.value} file={asked.value} />}
    </section>
  );
}

async function open([file]: readonly File[]): Promise<void> {
  inspection.value = null;
  if (file!.size > most) fault.value = `${file!.name} has ${size(file!.size)}; an ONNX file holds 2 GB at most.`;
  else await inspectAgain({ name: file!.name, file: file! });
}

function Result({ said, file }: { said: Inspection; file: ModelFile }) {
  const change = (next: Partial<ModelConfig>): void => {
    config.value = { ...config.value, ...next };
    inspectAgain().catch(report);
  };
  const changeRank = (value: number): void => {
    if (Number.isFinite(value)) change({ r: Math.min(mostRank, Math.max(1, Math.round(value))) });
  };
  const chosen = said.sites.filter((site) => site.chosen).length;
  return (
    <div class="inspection">
      <p class={said.trainable ? "verdict good" : "verdict bad"} role="status" data-trainable={said.trainable}>
        {said.trainable
          ? `Trainable: ${count(said.adapterParameters)} parameters in ${chosen} ${chosen === 1 ? "layer" : "layers"}, ${percent(said.adapterParameters / Math.max(1, said.parameters), 2)} of the model's ${count(said.parameters)}.`
          : "Not trainable as asked:"}
      </p>
      {!said.trainable && (
        <ul class="faults">
          {[...said.faults, ...said.obstacles].map((text) => (
            <li key={text}>{text}</li>
          ))}
        </ul>
      )}
      <p class="formula">
        Σ <var>r</var> · (in + out)
        <span>
          over the {chosen} chosen {chosen === 1 ? "layer" : "layers"}, at rank {config.value.r}:{" "}
          {count(said.adapterParameters)} numbers, {size(4 * said.adapterParameters)} in float32
        </span>
      </p>
      <div class="option-grid">
        <label class="field">
          <span class="field-title">Rank r</span>
          <input
            type="number"
            min={1}
            max={mostRank}
            value={config.value.r}
            onChange={(event) => changeRank(event.currentTarget.valueAsNumber)}
          />
        </label>
        <label class="field wide">
          <span class="field-title">Target modules</span>
          <input
            type="text"
            value={config.value.targets}
            onChange={(event) => change({ targets: event.currentTarget.value })}
          />
          <span class="note">Ends of module paths, with commas between; or all-linear.</span>
        </label>
      </div>
      <p class="note">
        {file.name}, {size(file.file.size)}, operator set {said.opset}
        {said.producer === "" ? "" : `, made by ${said.producer}`}. Inputs: {said.inputs.join("; ")}. Outputs:{" "}
        {said.outputs.join("; ")}.
      </p>
      <div class="tables">
        <section class="scroll" tabIndex={0} aria-label="Layers that can be adapted">
          <table>
            <caption>
              {said.sites.length === 0
                ? "No layer that can be adapted"
                : `${said.sites.length} layers that can be adapted`}
            </caption>
            <thead>
              <tr>
                <th scope="col">Module</th>
                <th scope="col">Operator</th>
                <th scope="col">Weight</th>
                <th scope="col">Parameters</th>
              </tr>
            </thead>
            <tbody>
              {said.sites.map((site, at) => (
                <tr key={at} class={site.chosen ? "chosen" : ""}>
                  <th scope="row">{site.path}</th>
                  <td>{site.operator}</td>
                  <td>{site.shape}</td>
                  <td>{count(site.parameters)}</td>
                </tr>
              ))}
            </tbody>
          </table>
        </section>
        <section class="scroll" tabIndex={0} aria-label="Operators and their gradients">
          <table>
            <caption>Operators</caption>
            <thead>
              <tr>
                <th scope="col">Operator</th>
                <th scope="col">Count</th>
                <th scope="col">Gradient</th>
              </tr>
            </thead>
            <tbody>
              {said.operators.map(({ operator, count: total, gradient }) => (
                <tr key={operator}>
                  <th scope="row">{operator}</th>
                  <td>{total}</td>
                  <td>{gradients[gradient] ?? gradient}</td>
                </tr>
              ))}
            </tbody>
          </table>
        </section>
      </div>
    </div>
  );
}
