// What the peers train: the study's network, 784-1000-2000-10, ReLU between, a linear head; Kaiming's bounds as torch.nn.Linear
// draws them. LoRA has alpha = r on all three layers, A gaussian, B zero.
export const NETWORK = [784, 1000, 2000, 10];
export const LEARNING_RATE = 1e-4;
/** Adam's, Kingma & Ba 2015. */
export const [BETA1, BETA2, EPSILON] = [0.9, 0.999, 1e-8];

/** The layers' weights [in, out] and biases [out], and A [in, r] and B [r, out] where r is given. */
export function drawLayers(r) {
  return NETWORK.slice(1).map((outputs, index) => {
    const inputs = NETWORK[index];
    const bound = 1 / Math.sqrt(inputs);
    const draw = (length) => Float32Array.from({ length }, () => bound * (2 * Math.random() - 1));
    const layer = { inputs, outputs, weight: draw(inputs * outputs), bias: draw(outputs) };
    if (r === undefined) return layer;
    return { ...layer, a: draw(inputs * r), b: new Float32Array(r * outputs) };
  });
}
