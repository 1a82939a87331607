"""PyTorch's side of `npm run bench`: a long-lived process that times training steps on request.

bench/torch.js starts it, with the environment that PyTorch is fastest with, and talks to it in JSON, one object a
line: it prints a hello, then answers each command in turn and ends when its input does.

    {"op": "prepare", "contender": "peft", "case": {"kind": "lora", "batch": 10, "r": 1}}   -> {"threads": 2, ...}
    {"op": "run", "contender": "peft", "case": {...}, "steps": 30}                          -> {"ms": [2.2, ...]}
    {"op": "peak"}                                                                          -> {"gflops": 200.1, ...}
    {"op": "release"}                                                                       -> {}

The work is the study's network, 784-1000-2000-10 with ReLU between and a linear head, float32, cross entropy, Adam at
1e-3. `peft` follows PEFT's lora.Linear (base(x) + B(A(x)) * scale), `study` the original study's parametrization
(W + B A * scale built in each forward pass), `adam` and `adam-fused` train every weight, `plain` only infers.
"""

from __future__ import annotations  # old versions of PyTorch come with old versions of Python

import ctypes
import gc
import json
import os
import signal
import statistics
import sys
import time

try:
    import torch
    from torch import nn
    from torch.nn import functional as F
except ImportError as error:
    print(json.dumps({"error": f"import torch fails: {error}", "missing": True}), flush=True)
    sys.exit(1)

WIDTHS = [784, 1000, 2000, 10]
LEARNING_RATE = 1e-3
DISTINCT_BATCHES = 8  # steps rotate through these, so that no step finds its own input in the first caches
TRIAL_SECONDS = 0.06  # of one of the trials that choose threads and optimizer
TRIAL_PASSES = 3
PEAK_SIZE = 2048


class LoraLinear(nn.Module):
    """A frozen linear layer with a trainable branch of rank r, lora_alpha = r (scale 1)."""

    def __init__(self, inputs: int, outputs: int, r: int, style: str) -> None:
        super().__init__()
        self.base = nn.Linear(inputs, outputs).requires_grad_(False)
        self.lora_a = nn.Linear(inputs, r, bias=False)
        self.lora_b = nn.Linear(r, outputs, bias=False)
        nn.init.normal_(self.lora_a.weight)
        nn.init.zeros_(self.lora_b.weight)
        self.scale = 1.0
        self.materialise = style == "study"

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.materialise:
            delta = torch.matmul(self.lora_b.weight, self.lora_a.weight) * self.scale
            return F.linear(x, self.base.weight + delta, self.base.bias)
        return self.base(x) + self.lora_b(self.lora_a(x)) * self.scale


def network(contender: str, case: dict) -> nn.Sequential:
    layers: list[nn.Module] = []
    for inputs, outputs in zip(WIDTHS, WIDTHS[1:]):
        if case["kind"] == "lora":
            layers.append(LoraLinear(inputs, outputs, case["r"], contender))
        else:
            layers.append(nn.Linear(inputs, outputs))
        layers.append(nn.ReLU())
    return nn.Sequential(*layers[:-1])


def adam(parameters: list[nn.Parameter], variant: str) -> torch.optim.Adam:
    flags = {} if variant == "default" else {variant: True}
    return torch.optim.Adam(parameters, lr=LEARNING_RATE, **flags)


class Workload:
    """One network with its optimizer and its batches: `steps` times steps of it."""

    def __init__(self, contender: str, case: dict, optimizer: str | None) -> None:
        torch.manual_seed(0)
        self.model = network(contender, case)
        self.optimizer = None
        if optimizer is not None:
            self.optimizer = adam([p for p in self.model.parameters() if p.requires_grad], optimizer)
        self.batches = [
            (torch.randn(case["batch"], WIDTHS[0]), torch.randint(0, WIDTHS[-1], (case["batch"],)))
            for _ in range(DISTINCT_BATCHES)
        ]
        self.next = 0

    def train(self, x: torch.Tensor, y: torch.Tensor) -> float:
        self.optimizer.zero_grad(set_to_none=True)
        loss = F.cross_entropy(self.model(x), y)
        loss.backward()
        self.optimizer.step()
        return loss.item()

    def infer(self, x: torch.Tensor, _: torch.Tensor) -> float:
        with torch.inference_mode():
            return self.model(x)[0, 0].item()

    def steps(self, count: int) -> list[float]:
        """Milliseconds of each of `count` steps. Python's cycle collector waits: it is not what is compared."""
        step = self.infer if self.optimizer is None else self.train
        times = []
        gc.disable()
        for _ in range(count):
            x, y = self.batches[self.next]
            self.next = (self.next + 1) % DISTINCT_BATCHES
            start = time.perf_counter_ns()
            step(x, y)
            times.append((time.perf_counter_ns() - start) / 1e6)
        gc.enable()
        return times


def cores() -> tuple[int, int]:
    """(physical, logical) cores that this process may use; physical = logical where the system does not tell."""
    try:
        logical = os.sched_getaffinity(0)
    except AttributeError:
        return os.cpu_count() or 1, os.cpu_count() or 1
    siblings = set()
    for cpu in logical:
        try:
            with open(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list") as file:
                siblings.add(file.read().strip())
        except OSError:
            siblings.add(str(cpu))
    return len(siblings), len(logical)


def thread_counts() -> list[int]:
    physical, logical = cores()
    return sorted({1, max(1, physical // 2), physical, logical})


def has_adam(variant: str) -> bool:
    """Whether this version has the variant on the CPU (`fused`: from 2.4 on)."""
    try:
        parameter = nn.Parameter(torch.zeros(1))
        parameter.grad = torch.ones(1)
        adam([parameter], variant).step()
        return True
    except (RuntimeError, TypeError):
        return False


def optimizers(contender: str) -> list[str | None]:
    """The optimizers that `contender` may choose from. Full training shows them apart; LoRA takes its fastest."""
    if contender == "plain":
        return [None]
    if contender == "adam":
        return ["default"]
    if contender == "adam-fused":
        return ["fused"]
    return [variant for variant in ("default", "foreach", "fused") if has_adam(variant)]


def prepare(contender: str, case: dict) -> tuple[Workload, dict]:
    """Tries every number of threads with every optimizer, in turns, and keeps the fastest.

    Fastest by the lower quartile of the steps: a choice of settings should not hang on who else used the CPU meanwhile.
    """
    workloads = {optimizer: Workload(contender, case, optimizer) for optimizer in optimizers(contender)}
    trials = {(threads, optimizer): [] for threads in thread_counts() for optimizer in workloads}
    for _ in range(TRIAL_PASSES):
        for (threads, optimizer), times in trials.items():
            torch.set_num_threads(threads)
            workloads[optimizer].steps(2)
            end = time.perf_counter() + TRIAL_SECONDS
            while time.perf_counter() < end:
                times += workloads[optimizer].steps(1)
    tried = [
        {"threads": threads, "optimizer": optimizer, "ms": statistics.quantiles(times, n=4)[0]}
        for (threads, optimizer), times in trials.items()
    ]
    best = min(tried, key=lambda trial: trial["ms"])
    workload = workloads[best["optimizer"]]
    return workload, {"threads": best["threads"], "optimizer": best["optimizer"], "tried": tried}


def peak() -> dict:
    """The machine's float32 matrix product: the best of a few 2048 x 2048 x 2048, over the numbers of threads."""
    a, b = torch.randn(PEAK_SIZE, PEAK_SIZE), torch.randn(PEAK_SIZE, PEAK_SIZE)
    out = torch.empty(PEAK_SIZE, PEAK_SIZE)
    best = {"gflops": 0.0}
    for threads in thread_counts():
        torch.set_num_threads(threads)
        for _ in range(8):
            start = time.perf_counter_ns()
            torch.mm(a, b, out=out)
            gflops = 2 * PEAK_SIZE**3 / (time.perf_counter_ns() - start)
            if gflops > best["gflops"]:
                best = {"gflops": gflops, "threads": threads, "product": f"torch.mm {PEAK_SIZE}^3 float32"}
    return best


def hello() -> dict:
    physical, logical = cores()
    capability = getattr(getattr(torch.backends, "cpu", None), "get_cpu_capability", lambda: None)
    return {
        "torch": torch.__version__,
        "python": sys.version.split()[0],
        "cores": {"physical": physical, "logical": logical},
        "cpuCapability": capability(),
        "threadsTried": thread_counts(),
        "fusedAdam": has_adam("fused"),
        "flushDenormal": torch.set_flush_denormal(True),
    }


def die_with_parent() -> None:
    """bench/torch.js stops this process between its turns; if bench/torch.js is killed then, nobody would wake it."""
    if sys.platform == "linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)


def answer(command: dict, prepared: dict) -> dict:
    if command["op"] == "release":
        prepared.clear()
        gc.collect()
        return {}
    if command["op"] == "peak":
        return peak()
    key = command["contender"] + json.dumps(command["case"], sort_keys=True)
    if command["op"] == "prepare":
        prepared[key] = prepare(command["contender"], command["case"])
        return prepared[key][1]
    workload, chosen = prepared[key]
    torch.set_num_threads(chosen["threads"])
    return {"ms": workload.steps(command["steps"])}


def main() -> None:
    die_with_parent()
    print(json.dumps(hello()), flush=True)
    prepared: dict[str, tuple[Workload, dict]] = {}
    for line in sys.stdin:
        try:
            reply = answer(json.loads(line), prepared)
        except Exception as error:  # reported to the other side, which stops with it
            reply = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(reply), flush=True)


if __name__ == "__main__":
    main()
