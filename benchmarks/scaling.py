"""One cell of 10 to 20,000 atoms: seconds and memory, and how they grow.

Rattled supercells of LiNiO2: no two atoms are alike, so nothing can be merged. Every size runs in a process of its own.
"""

import argparse
import gc
import json
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from _report import Table, finish, parser
from _structures import cathode, echo_stderr

SIZES = (10, 100, 1_000, 2_000, 5_000, 10_000, 20_000)
#: the exponents are fitted from this size on; below, what does not depend on the size dominates
LARGE = 1_000


def options() -> argparse.Namespace:
    made = parser(__doc__ or "", data=False)
    made.add_argument("--model", default="formation-energy-per-atom", help="name, folder, or .pth.tar")
    made.add_argument("--sizes", type=int, nargs="+", default=list(SIZES), help="atoms")
    made.add_argument("--repeats", type=int, default=3, help="the best counts")
    made.add_argument("--one", type=int, help=argparse.SUPPRESS)
    return made.parse_args()


def main() -> None:
    chosen = options()
    if chosen.one is not None:
        print(json.dumps(measure(chosen.model, chosen.one, chosen.repeats)))
        return
    table = Table(
        f"One cell, {chosen.model if '/' not in str(chosen.model) else Path(chosen.model).name}",
        ["atoms", "s", "graph s", "network s", "µs/atom", "peak RSS MB", "of which the structure's MB"],
        notes=[f"seconds from atoms in memory to a prediction with its std, best of {chosen.repeats}, model loaded"],
    )
    result: list[dict[str, float]] = []
    for size in chosen.sizes:
        command = [sys.executable, __file__, "--model", str(chosen.model), "--one", str(size)]
        out = subprocess.run(
            [*command, "--repeats", str(chosen.repeats)], check=True, stdout=subprocess.PIPE, text=True
        )
        one = json.loads(out.stdout.splitlines()[-1])
        result.append(one)
        echo_stderr(f"{size:,} atoms: {one['total']:.3f} s, {one['peak']:.0f} MB")
        total, used = one["total"], one["peak"] - one["before"]
        table.rows.append([size, total, one["graph"], one["network"], 1e6 * total / size, one["peak"], used])
    large = [one for one in result if one["n"] >= LARGE]
    if len(large) > 1:
        time_power = exponent([one["n"] for one in large], [one["total"] for one in large])
        memory_power = exponent([one["n"] for one in large], [one["peak"] - one["before"] for one in large])
        table.notes.append(f"from {LARGE:,} atoms on: time ~ N^{time_power:.2f}, memory ~ N^{memory_power:.2f}")
    finish([table], chosen.output, vars(chosen))


def exponent(n: list[float], y: list[float]) -> float:
    """The slope of log y over log n."""
    return float(np.polyfit(np.log(n), np.log(np.maximum(y, 1e-9)), 1)[0])


def measure(model: str, n_atoms: int, repeats: int) -> dict[str, Any]:
    """Times and memory (MB) of one size, in this process."""
    import torch

    from cgcnn_ase.graphs.builder import build_graph
    from cgcnn_ase.models.registry import load_model
    from cgcnn_ase.prediction.fused_cgcnn import FusedModel
    from cgcnn_ase.prediction.inference import ModelInference
    from cgcnn_ase.structures import StructureRecord

    infer = ModelInference([load_model(model)])
    merged = replace(infer.models[0].graph, merge=True)
    small = StructureRecord("warm", "", cathode(50), None)
    infer([small])
    record = StructureRecord("cell", "", cathode(n_atoms), None)
    gc.collect()
    memory = Memory()
    with memory:
        total = best(lambda: infer([record]), repeats)
    graph = build_graph(record.unwrap(), merged)
    fast = FusedModel.of(infer.models[0])
    with torch.inference_mode():
        network = best(lambda: fast(graph), repeats)
    return {
        "n": n_atoms,
        "total": total,
        "graph": best(lambda: build_graph(record.unwrap(), merged), repeats),
        "network": network,
        "before": memory.before,
        "peak": memory.peak,
    }


def best(work: Any, repeats: int) -> float:
    """Seconds of the quickest run."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)


class Memory:
    """Resident memory before and at the peak of a block, MB, looked at every 5 ms."""

    def __enter__(self) -> "Memory":
        self.before = self.peak = self._now()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _sample(self) -> None:
        while not self._done.wait(0.005):
            self.peak = max(self.peak, self._now())

    @staticmethod
    def _now() -> float:
        return float(psutil.Process().memory_info().rss) / 1e6


if __name__ == "__main__":
    main()
