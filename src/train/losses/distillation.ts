// Distillation: a student learns a teacher's probabilities (Hinton et al. 2015, arXiv:1503.02531).
import { checkNumber, type Loss, total } from "./loss.ts";

export interface DistillationOptions {
  readonly output?: string;
  /** Logits are divided by it before the softmax; default 1. */
  readonly temperature?: number;
}

/**
 * The Kullback-Leibler divergence of a teacher's distribution from the output's, KL(softmax(teacher / T) || softmax(output / T)),
 * times T^2, so that gradients keep their size at any temperature (Hinton et al., section 2). Output and labels: logits
 * float32 [batch, ..., classes]. The sum is divided by `batch`, the first axis alone: PyTorch's
 * kl_div(log_softmax(output / T), softmax(teacher / T), reduction="batchmean") * T^2.
 *
 * @throws LowrankError "config" unless the temperature is above 0.
 * @example await train(student, teacherLogits, { loss: distillation({ temperature: 2 }) });
 */
export function distillation({ output, temperature = 1 }: DistillationOptions = {}): Loss {
  checkNumber("distillation: temperature", temperature, { from: 0, above: true });
  return {
    name: "kl_divergence",
    labels: "float32",
    weigh: ({ dims }) => dims[0] ?? 1,
    output,
    build: (g, logits, teacher) => {
      const scale = g.constant("float32", 1 / temperature);
      const logSoftmax = (value: string) => g.op("LogSoftmax", [g.op("Mul", [value, scale])], { axis: -1 });
      const [student, wanted] = [logSoftmax(logits), logSoftmax(teacher)];
      const target = g.op("Exp", [wanted]);
      // 0 log 0 = 0: a teacher may rule classes out with -infinity.
      const zero = g.constant("float32", 0);
      const terms = g.op("Mul", [target, g.op("Sub", [wanted, student])]);
      const divergence = total(g, g.op("Where", [g.op("Equal", [target, zero]), zero, terms]));
      const batch = g.op("Cast", [g.op("Squeeze", [g.op("Shape", [logits], { start: 0, end: 1 })])], { to: 1 });
      // d / d output = T (p - target) / batch
      const factor = (value: number) => g.op("Div", [g.constant("float32", value), batch]);
      return {
        loss: g.op("Mul", [divergence, factor(temperature ** 2)]),
        gradient: g.op("Mul", [g.op("Sub", [g.op("Exp", [student]), target]), factor(temperature)]),
      };
    },
  };
}
