// Holds training on a device against training on the processor: `npm run device-steps -- --device webgpu` takes the study's
// network through 50 steps of LoRA on both, from the same start and on the same batches, and prints both losses, the largest
// relative difference and what crosses to the device and back in a step. Exits 1 where they differ by more than 1e-4;
// with `--precision float16` on the device, by more than 2e-2.
import { parseArgs } from "node:util";
import {
  attachLora,
  checkDevice,
  createRandom,
  crossEntropy,
  initAdapter,
  stepTraffic,
  tensor,
  train,
} from "../dist/index.js";
import { linearModules, studyNetwork } from "../dist/study/network.js";

/** Of a loss, relative; float16 has three digits, and 50 steps of Adam carry that on. */
const tolerances = { float32: 1e-4, float16: 2e-2 };

const { values } = parseArgs({
  options: {
    device: { type: "string", default: "webgpu" },
    steps: { type: "string", default: "50" },
    batch: { type: "string", default: "10" },
    rank: { type: "string", default: "1" },
    precision: { type: "string", default: "float32" },
  },
});
const [steps, size, r] = [Number(values.steps), Number(values.batch), Number(values.rank)];
const { device } = await checkDevice({ device: values.device }).catch((error) => {
  console.error(`device-steps: ${error.message}`);
  process.exit(2);
});

/** Each class has a picture of its own; images are that, with noise. */
function* batches() {
  const random = createRandom(0, "device-steps");
  const pictures = Array.from({ length: 10 }, () => Float32Array.from({ length: 784 }, () => random.normal()));
  for (let step = 0; step < steps; step++) {
    const labels = Array.from({ length: size }, () => Math.floor(random.uniform() * 10));
    const x = Float32Array.from(
      labels.flatMap((digit) => [...pictures[digit]]),
      (value) => value + random.normal(),
    );
    yield {
      inputs: { x: tensor("float32", [size, 784], x) },
      labels: tensor("int64", [size], BigInt64Array.from(labels, BigInt)),
    };
  }
}

async function run(on, precision) {
  const adapted = attachLora(studyNetwork("linear", 0), { r, loraAlpha: r, targetModules: linearModules });
  const { adapter } = initAdapter(adapted, { seed: 0, method: "normal" });
  const begun = performance.now();
  const { history } = await train(adapted, batches(), { device: on, adapter, precision, loss: crossEntropy() });
  const traffic = stepTraffic(adapted, batches().next().value);
  await adapted.dispose();
  return { losses: history.losses, milliseconds: (performance.now() - begun) / steps, traffic };
}

const [here, there] = [await run("cpu", "float32"), await run(device, values.precision)];
const differences = [...here.losses].map((loss, step) => Math.abs(there.losses[step] - loss) / Math.abs(loss));
const worst = Math.max(...differences);
const { uploaded, downloaded, resident } = there.traffic;
console.log(`losses on cpu: ${here.losses[0].toFixed(5)} … ${here.losses.at(-1).toFixed(5)}`);
console.log(`losses on ${device}: ${there.losses[0].toFixed(5)} … ${there.losses.at(-1).toFixed(5)}`);
console.log(`${steps} steps of ${size} rows at rank ${r}; largest relative difference: ${worst.toExponential(1)}`);
console.log(`a step uploads ${uploaded} bytes and downloads ${downloaded}; ${resident} bytes of weights stay there`);
process.exitCode = here.losses.length === steps && worst <= tolerances[values.precision] ? 0 : 1;
