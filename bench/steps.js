// lowrank's steps on the study's network beside PyTorch's and those of the JavaScript peers, in one interleaved run. Without PyTorch,
// DESIGN's milliseconds stand in.
import { lowrankContender } from "./lowrank.js";
import { connectPeers } from "./peers.js";
import { bench, parseOptions, USAGE } from "./report.js";
import { connectTorch, REFERENCE } from "./torch.js";

let options;
try {
  options = parseOptions(process.argv.slice(2));
} catch (error) {
  console.error(`bench: ${error.message}\n${USAGE}`);
  process.exit(2);
}
const torch = await connectTorch();
const peers = await connectPeers();
// An old PyTorch, or none: milliseconds of a current one, known from another machine, are shown beside it.
const current = torch.version !== null && Number(torch.version.split(".")[0]) >= 2;
await bench([lowrankContender(), ...torch.contenders, ...peers.contenders], options, {
  notes: [torch.note, ...peers.notes],
  reference: current ? null : REFERENCE,
});
