"""Active learning with real DFT: three rounds of GPAW on lithium-vacancy cells of LiNiO2, in one process.

A fresh profile in a temporary folder, `aiida-cgcnn setup`, then this file under `verdi run`, as a user would. The
candidates are 15 cells of LiNiO2 of 13 to 15 atoms, with one to three of four lithium atoms missing, at five volumes.
At the end every DFT run must be found from the last model by links alone.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROUNDS, LABELS = 3, 2


def main() -> None:
    from _report import Table, finish, parser

    made = parser(__doc__ or "", data=False)
    chosen = made.parse_args()
    binaries = Path(sys.executable).parent
    with tempfile.TemporaryDirectory() as path:
        environment = os.environ | {"AIIDA_PATH": path, "OMP_NUM_THREADS": "1"}
        for command in (["verdi", "presto", "--use-zeromq"], ["aiida-cgcnn", "setup"]):
            subprocess.run([binaries / command[0], *command[1:]], check=True, env=environment, capture_output=True)
        results = Path(path) / "found.json"
        start = time.perf_counter()
        subprocess.run([binaries / "verdi", "run", __file__, str(results)], check=True, env=environment)
        seconds = time.perf_counter() - start
        result = json.loads(results.read_text())
    table = Table(
        f"{ROUNDS} rounds of {LABELS} labels, GPAW, protocol fast",
        ["round", "labels so far", "MAE before the labels, eV/atom", "without offset"],
        notes=[
            f"{seconds:.0f} s in all (to reach: 600 s), {result['n_nodes']} nodes",
            f"DFT runs of structures and elements: {result['n_runs']}; found from the last model by links: "
            f"{result['n_behind']} of {result['n_runs']}",
        ],
    )
    for row in result["rows"]:
        table.rows.append([row["round"], row["n_labels"], row["mae"], row.get("mae_without_offset")])
    finish([table], chosen.output, vars(chosen))
    if result["n_behind"] != result["n_runs"]:
        raise SystemExit("some DFT runs are not behind the last model")


def inside(result: Path) -> None:
    """Under `verdi run`."""
    from aiida.engine import run_get_node
    from aiida.orm import CalcJobNode, Node, QueryBuilder, load_code
    from aiida.plugins import DataFactory, WorkflowFactory

    from aiida_plugin.provenance.origin import origin

    pool = candidates()
    structures = DataFactory("cgcnn.structures").from_ase(pool.values(), list(pool)).store()
    model = DataFactory("cgcnn.model").get_or_create("formation-energy-per-atom")
    builder = WorkflowFactory("cgcnn.active_learning").get_builder_from_protocol(
        load_code("cgcnn-ase"), model, load_code("python"), candidates=structures, engine="gpaw", protocol="fast",
        references=True, budget={"rounds": ROUNDS}, selection={"take": {"lcb": LABELS}}, relax=False,
    )  # fmt: skip
    results, node = run_get_node(builder)
    if not node.is_finished_ok:
        raise SystemExit(f"the loop failed: {node.exit_message}")
    runs = [
        each.uuid
        for each in node.called_descendants
        if isinstance(each, CalcJobNode) and "ase_dft" in each.process_type
    ]
    code, predict = load_code("cgcnn-ase"), WorkflowFactory("cgcnn.screen").get_builder_from_protocol
    last, _ = run_get_node(predict(code, results["model"], structures))
    behind = {row.uuid for row in origin(last["predictions"]).dft_runs}
    content = {
        "rows": results["report"]["rows"],
        "n_runs": len(runs),
        "n_behind": len(behind & set(runs)),
        "n_nodes": QueryBuilder().append(Node).count(),
    }
    result.write_text(json.dumps(content))


def candidates() -> dict:
    """Cells of LiNiO2 (R-3m, a = 2.88 Å, c = 14.2 Å) with lithium missing, by id."""
    from ase.spacegroup import crystal

    sites = [(0, 0, 0.5), (0, 0, 0), (0, 0, 0.2585)]
    cell = [2.88, 2.88, 14.2, 90, 90, 120]
    primitive = crystal(["Li", "Ni", "O"], sites, spacegroup=166, cellpar=cell, primitive_cell=True)
    made = {}
    for volume in (0.94, 0.97, 1.0, 1.03, 1.06):
        host = primitive.repeat((2, 2, 1))
        host.set_cell(host.cell * volume ** (1 / 3), scale_atoms=True)
        lithium = [atom.index for atom in host if atom.symbol == "Li"]
        for n in (1, 2, 3):
            made[f"V{volume:.2f}-{n}v_Li"] = host[[k for k in range(len(host)) if k not in lithium[:n]]]
    return made


if __name__ == "__main__":
    inside(Path(sys.argv[1])) if len(sys.argv) > 1 and sys.argv[1].endswith("found.json") else main()
