"""100,000 structures through AiiDA against the bare command line: time, nodes, and the same again from the cache.

Both predict the same structures with the same model on all cores. AiiDA's time is from structures in memory to all
nodes stored (the set, the job, what it retrieved, the predictions and the summary); the command's from the packed file
to the CSV file. A fresh profile (SQLite, no broker) in a temporary folder.
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from _report import CGCNN_ASE, Table, finish, parser, run
from _structures import echo_stderr, structures
from ase import Atoms


def main() -> None:
    made = parser(__doc__ or "")
    made.add_argument("--n", type=int, default=100_000, help="structures")
    made.add_argument("--model", default="formation-energy-per-atom")
    chosen = made.parse_args()
    with tempfile.TemporaryDirectory() as path:
        table = measure(Path(path), chosen.n, chosen.data, chosen.model)
    finish([table], chosen.output, vars(chosen))


def measure(path: Path, n: int, data: Path | None, model: str) -> Table:
    os.environ["AIIDA_PATH"] = str(path / "aiida")  # before AiiDA is imported
    (path / "aiida").mkdir()
    verdi = str(Path(sys.executable).with_name("verdi"))
    subprocess.run([verdi, "presto", "--non-interactive"], check=True, capture_output=True)
    crystals, source = rattled(n, data)
    echo_stderr(f"{n:,} structures, {source}")

    from aiida import load_profile, orm
    from aiida.engine import run_get_node
    from aiida.manage.caching import enable_caching
    from aiida.plugins import CalculationFactory, DataFactory

    load_profile()
    computer = orm.load_computer("localhost")
    computer.set_minimum_job_poll_interval(1.0)
    code = orm.InstalledCode(
        computer=computer, filepath_executable=CGCNN_ASE, default_calc_job_plugin="cgcnn.predict"
    ).store()
    node = DataFactory("cgcnn.model").get_or_create(model)
    job, sets = CalculationFactory("cgcnn.predict"), DataFactory("cgcnn.structures")
    ids = [f"s{k:06d}" for k in range(n)]

    def nodes() -> int:
        return orm.QueryBuilder().append(orm.Node).count()

    before, start = nodes(), time.perf_counter()
    stored = sets.from_ase(crystals, ids).store()
    storing = time.perf_counter() - start
    results, ran = run_get_node(job, code=code, model=node, structures=stored)
    through_aiida, new = time.perf_counter() - start, nodes() - before
    if not ran.is_finished_ok:
        raise SystemExit(f"the job failed: {ran.exit_message}")
    echo_stderr(f"AiiDA: {through_aiida:.1f} s")

    start = time.perf_counter()
    with enable_caching(identifier="aiida.calculations:cgcnn.predict"):
        cached, again = run_get_node(job, code=code, model=node, structures=stored)
    again_seconds = time.perf_counter() - start
    if not again.base.caching.is_created_from_cache or len(cached["predictions"]) != len(results["predictions"]):
        raise SystemExit("the second run was not taken from the cache")

    packed, csv = path / "structures.npz", path / "out.csv"
    stored.write_packed(packed)
    bare, _ = run([CGCNN_ASE, "predict", str(packed), "--model", model, "--output", str(csv)], allowed=(0, 1))
    ours: Any = results["predictions"].to_frame()["value"].to_numpy()
    import pandas as pd

    np.testing.assert_allclose(ours, pd.read_csv(csv)["value"].to_numpy(), rtol=1e-3, atol=1e-4)
    sizes = [len(atoms) for atoms in crystals]
    table = Table(
        f"{n:,} structures of {np.mean(sizes):.1f} atoms, {model}",
        ["what", "s", "of the bare command", "new nodes", "to reach"],
        notes=["AiiDA's predictions equal the command's; structures: " + source],
    )
    table.rows.append(["cgcnn-ase predict", bare, 1.0, None, None])
    table.rows.append(
        ["through AiiDA, all nodes stored", through_aiida, through_aiida / bare, new, "≤ 1.3, ≤ 10 nodes"]
    )
    table.rows.append(["of that, storing the set", storing, storing / bare, None, None])
    table.rows.append(["the same again, from the cache", again_seconds, again_seconds / bare, None, "≤ 3 s"])
    return table


def rattled(n: int, data: Path | None, *, seed: int = 0) -> tuple[list[Atoms], str]:
    """So many different crystals: some thousands, and copies of them with atoms displaced by about 0.03 Å."""
    named, source = structures(min(n, 5_000), data, seed=seed)
    rng = np.random.default_rng(seed)
    crystals = []
    for k in range(n):
        base = named[k % len(named)][1]
        shift = rng.normal(scale=0.03, size=base.positions.shape) if k >= len(named) else 0.0
        crystals.append(Atoms(base.numbers, base.positions + shift, cell=base.cell, pbc=True))
    return crystals, source


if __name__ == "__main__":
    main()
