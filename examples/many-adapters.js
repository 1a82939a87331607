// One base, many adapters: loaded by name, switched, summed, and another for each row of a batch.
//
// The model and its adapters are made here so that the example needs nothing else; readModel and readAdapter bring real ones.
import { attachLora, createModel, createRandom, createSession, graphBuilder, initAdapter, tensor } from "lowrank";

const random = createRandom(3);
const normal = (dims) =>
  tensor(
    "float32",
    dims,
    Float32Array.from({ length: dims.reduce((a, b) => a * b) }, () => random.normal()),
  );

const g = graphBuilder({ name: "base", opset: 17 });
const x = g.input("x", "float32", ["batch", 4]);
const weight = g.initializer("fc.weight", normal([2, 4]));
g.output(g.op("Gemm", [x, weight], { transB: 1 }, { name: "/fc/Gemm" }), "float32", ["batch", 2]);
const base = createModel(g.build(), { opset: 17 });

/** A random adapter of rank r: only A and B matter here. */
function adapterOf(r) {
  const { adapter } = initAdapter(attachLora(base, { r, loraAlpha: r, targetModules: ["fc"] }), { seed: r });
  return { ...adapter, tensors: new Map([...adapter.tensors].map(([key, { dims }]) => [key, normal(dims)])) };
}

// The session holds the base once, whatever the adapters' ranks are.
const session = await createSession(attachLora(base, { r: 8, targetModules: ["fc"] }));
session.load("poet", adapterOf(1));
session.load("critic", adapterOf(4));

const inputs = { x: normal([3, 4]) };
const show = async (title, options) => {
  const [logits] = (await session.run(inputs, options)).values();
  console.log(title.padEnd(34), [...logits.data].map((value) => value.toFixed(2).padStart(6)).join(" "));
};
await show("the base");
await show("poet on all rows", { adapter: "poet" });
await show("critic on all rows", { adapter: "critic" });
await show("0.7 poet + 0.3 critic", {
  adapter: [
    { adapter: "poet", weight: 0.7 },
    { adapter: "critic", weight: 0.3 },
  ],
});
await show("poet, nobody, critic, row by row", { rows: ["poet", null, "critic"] });

session.unload("critic");
await session.dispose();
