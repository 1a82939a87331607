// npm run bench: lowrank's steps beside PyTorch's, in one interleaved run. Without PyTorch, DESIGN's milliseconds stand in.
// `npm run bench -- playground` measures the playground in a browser instead.
import { lowrankContender } from "./lowrank.js";
import { bench, parseOptions, USAGE } from "./report.js";
import { connectTorch, REFERENCE } from "./torch.js";

if (process.argv[2] === "playground") {
  await import("./playground.js");
  process.exit();
}
let options;
try {
  options = parseOptions(process.argv.slice(2));
} catch (error) {
  console.error(`bench: ${error.message}\n${USAGE}`);
  process.exit(2);
}
const torch = await connectTorch();
// An old PyTorch, or none: milliseconds of a current one, known from another machine, are shown beside it.
const current = torch.version !== null && Number(torch.version.split(".")[0]) >= 2;
await bench([lowrankContender(), ...torch.contenders], options, {
  notes: [torch.note],
  reference: current ? null : REFERENCE,
});
