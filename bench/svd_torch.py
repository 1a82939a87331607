"""PyTorch's side of bench/svd.js: python3 svd_torch.py FILE ROWS COLUMNS RANK prints the times and the singular values as JSON."""
import json
import statistics
import sys
import time

import torch

path, rows, columns, rank = sys.argv[1], *map(int, sys.argv[2:])
torch.set_num_threads(1)
matrix = torch.frombuffer(bytearray(open(path, "rb").read()), dtype=torch.float32).reshape(rows, columns)


def timed(name, work, rounds=5):
    times = []
    for index in range(rounds + 1):
        begun = time.perf_counter()
        s = work()
        if index > 0:
            times.append(1000 * (time.perf_counter() - begun))
    return {"name": f"{name} (PyTorch {torch.__version__})", "ms": statistics.median(times), "s": s[:rank].tolist()}


print(json.dumps([
    timed("torch.svd_lowrank, niter 4", lambda: torch.svd_lowrank(matrix, q=rank, niter=4)[1]),
    timed("torch.linalg.svd", lambda: torch.linalg.svd(matrix, full_matrices=False)[1], rounds=1),
]))
