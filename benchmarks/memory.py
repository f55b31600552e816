"""Memory of a long stream: 100,000 structure files through one Predictor, with all its processes watched.

PSS counts memory shared between processes once; RSS counts it in each of them.
"""

import argparse
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import psutil
from _report import Table, finish, parser
from _structures import cache_folder, cif_folder, echo_stderr

#: the child reports after so many predictions
_STEP = 64


class Sample(NamedTuple):
    """One look at the processes."""

    seconds: float
    done: int
    pss: float  # MB
    rss: float  # MB
    processes: int


def options() -> argparse.Namespace:
    made = parser(__doc__ or "")
    made.add_argument("--n", type=int, default=100_000, help="structure files")
    made.add_argument("--distinct", type=int, default=2_000, help="of which so many differ; the others are links")
    made.add_argument("--model", default="formation-energy-per-atom", help="name, folder, or .pth.tar")
    made.add_argument("--workers", type=int, help="processes; as the Predictor chooses by default")
    made.add_argument("--interval", type=float, default=1.0, help="seconds between two looks")
    made.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    return made.parse_args()


def main() -> None:
    chosen = options()
    if chosen.child is not None:
        stream(chosen.child, chosen.model, chosen.workers)
        return
    source = cif_folder(min(chosen.distinct, chosen.n), chosen.data)
    folder = many_names(source.path, chosen.n)
    samples, failed = watch(folder, chosen)
    finish([summary(samples, chosen.n, failed, str(source))], chosen.output, vars(chosen))
    shutil.rmtree(folder)


def many_names(source: Path, n: int) -> Path:
    """A folder of n files, hard links to the few."""
    path = cache_folder() / "memory"
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir()
    files = sorted(source.glob("*.cif"))
    for k in range(n):
        file = files[k % len(files)]
        os.link(file, path / f"{k:06d}-{file.name}")
    return path


def stream(folder: Path, model: str, workers: int | None) -> None:
    """The work under test: predictions are counted and dropped."""
    from cgcnn_ase.prediction.predictor import Predictor

    failed = done = 0
    for prediction in Predictor(model, workers=workers).stream(folder):
        done += 1
        failed += prediction.error is not None
        if done % _STEP == 0:
            print(done, failed, flush=True)
    print(done, failed, flush=True)


def watch(folder: Path, chosen: argparse.Namespace) -> tuple[list[Sample], int]:
    """Run the stream in a child and look at its processes until it ends."""
    command = [sys.executable, __file__, "--child", str(folder), "--model", str(chosen.model)]
    if chosen.workers is not None:
        command += ["--workers", str(chosen.workers)]
    start, samples, n_messages, state = time.perf_counter(), list[Sample](), 0, [0, 0]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        reader = threading.Thread(target=_read, args=(child, state), daemon=True)
        reader.start()
        while child.poll() is None:
            if (memory := look(child.pid)) is not None:
                samples.append(Sample(time.perf_counter() - start, state[0], *memory))
                if time.perf_counter() - start > 30 * (n_messages + 1):
                    n_messages += 1
                    echo_stderr(f"{state[0]:,} of {chosen.n:,}, {samples[-1].pss:.0f} MB")
            try:
                child.wait(chosen.interval)
            except subprocess.TimeoutExpired:
                continue
        end = time.perf_counter() - start
        reader.join()
    if child.returncode or state[0] != chosen.n:
        raise SystemExit(f"the stream ended with exit code {child.returncode} after {state[0]:,} predictions")
    samples.append(samples[-1]._replace(seconds=end, done=state[0]))
    return samples, state[1]


def _read(child: "subprocess.Popen[str]", state: list[int]) -> None:
    assert child.stdout is not None
    for line in child.stdout:
        state[:] = map(int, line.split())


def look(pid: int) -> tuple[float, float, int] | None:
    """PSS and RSS (MB) of a process and all its descendants, and their number."""
    try:
        parent = psutil.Process(pid)
        processes = [parent, *parent.children(recursive=True)]
    except psutil.NoSuchProcess:
        return None
    pss = rss = 0.0
    for process in processes:
        try:
            info = process.memory_full_info()
        except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
            continue
        pss += getattr(info, "pss", info.uss)
        rss += info.rss
    return pss / 1e6, rss / 1e6, len(processes)


def summary(samples: Sequence[Sample], n: int, failed: int, source: str) -> Table:
    """Peak, and how flat."""
    end = samples[-1].seconds
    table = Table(
        f"{n:,} structures streamed",
        ["when", "structures", "s", "PSS MB", "RSS MB", "processes"],
        notes=[
            f"{n / end:.0f} structures/s over the whole process ({end:.0f} s), {failed} failed; {source}",
        ],
    )
    for share in (0.1, 0.5, 1.0):
        at = next(sample for sample in samples if sample.done >= share * n)
        table.rows.append(_row(f"after {100 * share:.0f} %", at))
    table.rows.append(_row("peak", max(samples, key=lambda sample: sample.pss)))
    later = [sample for sample in samples if sample.done >= 0.1 * n]
    highest, first = max(sample.pss for sample in later), later[0].pss
    table.notes.append(f"highest after the first 10 %: {highest:.0f} MB, {highest - first:+.0f} MB from there")
    return table


def _row(name: str, sample: Sample) -> list[str | float | int]:
    return [name, sample.done, round(sample.seconds), round(sample.pss), round(sample.rss), sample.processes]


if __name__ == "__main__":
    main()
