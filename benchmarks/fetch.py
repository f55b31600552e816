"""Fetching 100,000 records of the Materials Project's interface from this machine, one request in twenty failing.

The server of examples/servers runs in one process, the client in another. Counted: records lost or doubled against the
server's own list, and the client's peak memory at two sizes. Timed: against mp-api alone, without faults, on the
smaller size; that one is given no structures to build and writes no file.
"""

import argparse
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import psutil
from _report import Table, finish, parser
from _structures import cache_folder, echo_stderr

SERVER = Path(__file__).resolve().parents[1] / "examples" / "servers" / "materials_project_server.py"
FIELD = "formation_energy_per_atom"


class Ran(NamedTuple):
    """What a client took."""

    seconds: float
    memory: float  # MB, peak of its resident set
    n: int
    retries: int


def options() -> argparse.Namespace:
    made = parser(__doc__ or "", data=False)
    made.add_argument("--n", type=int, nargs=2, default=[10_000, 100_000], help="records: fewer, many")
    made.add_argument("--fault-rate", type=float, default=0.05, help="part of the requests that fail")
    made.add_argument("--child", nargs=3, metavar=("HOW", "URL", "FOLDER"), help=argparse.SUPPRESS)
    return made.parse_args()


def main() -> None:
    chosen = options()
    if chosen.child is not None:
        how, url, folder = chosen.child
        print(json.dumps(bare(url) if how == "bare" else ours(url, Path(folder))))
        return
    path = cache_folder() / "fetch"
    shutil.rmtree(path, ignore_errors=True)
    table = Table(
        "Fetching",
        ["client", "records", "requests failed", "lost", "doubled", "s", "records/s", "peak memory MB"],
        notes=["failed requests: 500, 429, and answers cut off, at random; the server is another process"],
    )
    with server(chosen.n[0], 0.0) as (url, _):
        alone = child("bare", url, path)
        table.rows.append(["mp-api alone", chosen.n[0], 0, None, None, *cost(alone)])
        plain = child("ours", url, path / "plain")
        table.rows.append(["cgcnn-ase", chosen.n[0], 0, *compare(path / "plain", chosen.n[0]), *cost(plain)])
        echo_stderr(f"mp-api alone {alone.seconds:.1f} s, cgcnn-ase {plain.seconds:.1f} s")
    for n in chosen.n:
        with server(n, chosen.fault_rate) as (url, _):
            ran = child("ours", url, path / f"{n}")
        table.rows.append(["cgcnn-ase", n, ran.retries, *compare(path / f"{n}", n), *cost(ran)])
        echo_stderr(f"{n} records: {ran}")
    table.notes.append(f"without faults, cgcnn-ase takes {plain.seconds / alone.seconds:.2f} times mp-api alone")
    few, many = table.rows[-2][-1], table.rows[-1][-1]
    table.notes.append(f"memory at {chosen.n[1]:,} records is {many / few:.3f} times that at {chosen.n[0]:,}")
    shutil.rmtree(path)
    finish([table], chosen.output, vars(chosen))


def cost(ran: Ran) -> tuple[float, float, float]:
    return ran.seconds, ran.n / ran.seconds, ran.memory


@contextmanager
def server(n: int, fault_rate: float) -> Iterator[tuple[str, subprocess.Popen]]:
    """A running server, and its address."""
    command = [sys.executable, str(SERVER), "--port", "0", "--records", str(n), "--fault-rate", str(fault_rate)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield process.stdout.readline().split()[0], process
        finally:
            process.terminate()


def child(how: str, url: str, folder: Path) -> Ran:
    """Run a client in a process of its own and watch its memory."""
    command = [sys.executable, __file__, "--child", how, url, str(folder)]
    peak = 0
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        watched = psutil.Process(process.pid)
        while process.poll() is None:
            try:
                peak = max(peak, watched.memory_info().rss)
            except psutil.NoSuchProcess:
                break
            time.sleep(0.05)
        out = process.communicate()[0]
    if process.returncode:
        raise SystemExit(f"{' '.join(command)}: exit code {process.returncode}")
    result = json.loads(out.splitlines()[-1])
    return Ran(result["seconds"], peak / 1e6, result["n"], result["retries"])


def key() -> str:
    sys.path.insert(0, str(SERVER.parent))
    from materials_project_server import KEY

    return str(KEY)


def bare(url: str) -> dict:
    """All thermo documents by the client itself, as it pages through them."""
    from mp_api.client import MPRester

    rester = MPRester(key(), url, use_document_model=False, mute_progress_bars=True)
    _ = rester.materials.thermo.search  # imports
    start = time.perf_counter()
    fields = ["material_id", "thermo_type", "energy_type", "entries", "symmetry", FIELD]
    match = rester.materials.thermo.search(thermo_types=["GGA_GGA+U"], fields=fields)
    return {"seconds": time.perf_counter() - start, "n": len(match), "retries": 0}


def ours(url: str, folder: Path) -> dict:
    """The same as a data set on disk."""
    from mp_api.client import MPRester

    from cgcnn_ase.sources.client import Query
    from cgcnn_ase.sources.fetch import fetch
    from cgcnn_ase.sources.materials_project import MaterialsProject

    _ = MPRester  # imported before the clock starts
    told: list[str] = []
    start = time.perf_counter()
    provenance = fetch(
        MaterialsProject(key(), url), Query(), folder / "data", fields=[FIELD], cache=folder / "cache", say=told.append
    )
    seconds = time.perf_counter() - start
    return {"seconds": seconds, "n": provenance.n_records, "retries": sum("attempt" in line for line in told)}


def compare(folder: Path, n: int) -> tuple[int, int]:
    """Records of the server that are not there, and those that are there more than once."""
    sys.path.insert(0, str(SERVER.parent))
    from materials_project_server import Database

    with np.load(folder / "data" / "structures.npz", allow_pickle=False) as packed:
        ids = packed["ids"].tolist()
    return len(set(Database(n).ids) - set(ids)), len(ids) - len(set(ids))


if __name__ == "__main__":
    main()
