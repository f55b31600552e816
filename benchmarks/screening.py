"""The time of a whole screening: NCM811 supercells of about 100 atoms built, a lithium vacancy in each, ranked.

The command, as a user types it, from the name of the material to the table and the folders for DFT. Beside it the same
vacancies made by pymatgen-analysis-defects, without predicting anything.
"""

import csv
import tempfile
import time
from pathlib import Path

from _report import CGCNN_ASE, Table, finish, parser, run
from _structures import echo_stderr


def main() -> None:
    made = parser(__doc__ or "", data=False)
    made.add_argument("--n", type=int, default=1000, help="supercells, at least")
    made.add_argument("--n-atoms", type=int, default=120, help="of each, before the vacancy")
    made.add_argument("--model", nargs="*", default=["formation-energy-per-atom", "vacancy-formation-energy"])
    made.add_argument("--repeats", type=int, default=1)
    chosen = made.parse_args()
    table = Table(
        "Screening NCM811",
        ["model", "supercells", "atoms each", "s", "ms a supercell", "to reach"],
        notes=[
            "whole process: build, predict, rank, write the table, pictures and 20 folders; the best of the repeats"
        ],
    )
    for model in chosen.model:
        echo_stderr(model)
        table.rows.append(measure(model, chosen.n, chosen.n_atoms, chosen.repeats))
    table.rows.append(peer(chosen.n, chosen.n_atoms))
    finish([table], chosen.output, vars(chosen))


def measure(model: str, n: int, n_atoms: int, repeats: int) -> list[object]:
    orders = -(-4 * n // n_atoms)  # every fourth atom is lithium
    best = float("inf")
    for _ in range(repeats):
        with tempfile.TemporaryDirectory() as path:
            output = Path(path) / "out"
            options = ["--element", "Li", "--num", str(orders), "--n-atoms", str(n_atoms)]
            options += ["--model", model, "--output", str(output)]
            if model == "vacancy-formation-energy":
                options += ["--fidelity", "chgnet"]  # the one that knows lithium
            seconds, _ = run([CGCNN_ASE, "screen", "NCM811", *options])
            with (output / "ranking.csv").open() as file:
                rows = list(csv.DictReader(file))
        best = min(best, seconds)
    sizes = {int(row["n_atoms"]) for row in rows}
    return [
        model,
        len(rows),
        "/".join(map(str, sorted(sizes))),
        best,
        1000 * best / len(rows),
        "≤ 60 s" if n >= 1000 else None,
    ]


def peer(n: int, n_atoms: int) -> list[object]:
    """Making the vacancies alone, by pymatgen-analysis-defects; a few hosts, as it is slow."""
    from pymatgen.analysis.defects.generators import VacancyGenerator
    from pymatgen.io.ase import AseAtomsAdaptor

    from cgcnn_ase.cathodes import cathodes

    hosts = list(cathodes("NCM811", num=max(1, min(3, 4 * n // n_atoms)), n_atoms=n_atoms))
    start, count = time.perf_counter(), 0
    for host in hosts:
        structure = AseAtomsAdaptor.get_structure(host)
        for vacancy in VacancyGenerator().generate(structure, rm_species=["Li"]):
            vacancy.get_supercell_structure(sc_mat=[[1, 0, 0], [0, 1, 0], [0, 0, 1]])
            count += 1
    seconds = time.perf_counter() - start
    name = "(pymatgen-analysis-defects, vacancies alone)"
    return [name, count, str(len(hosts[0]) - 1), seconds, 1000 * seconds / count, None]


if __name__ == "__main__":
    main()
