"""Pack the table of competing phases: ``python -m cgcnn_ase.zoo.competing_phases --data FOLDER``.

Of each formula of the data set mp36k, and of the newer entries of Li-Co-Ni-O, the lowest crystal, with its formation
energy on the older scale and on that of 2020. There are no structures in it, and no formula of
DATA/excluded_formulas.txt, by which models are judged.
"""

import argparse
import csv
import gzip
import io
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cgcnn_ase.core.progress import with_progress
from cgcnn_ase.data.dataset import load_dataset, read_properties
from cgcnn_ase.energies.scales import convert_formation_energy, correction, element_energies
from cgcnn_ase.stability.phases import TABLE
from cgcnn_ase.structures.composition import formula_hash
from cgcnn_ase.zoo.distorted import DATA, TARGET
from cgcnn_ase.zoo.distorted_frames import held_out_formulas

if TYPE_CHECKING:
    from ase import Atoms

_NEWER = "mp_li_co_ni_o_2024"
# a difference of two snapshots of one crystal, eV/atom
_SAME = 1e-3


# id, and formation energies on the older scale and on that of 2020, eV/atom, by reduced formula
Rows = dict[str, tuple[str, float, float]]


def pack(data: Path, file: Path) -> int:
    """Write the table; return the number of formulas."""
    excluded = held_out_formulas(data, ())
    rows = {k: row for k, row in newer_rows(data, rows_of_mp36k(data)).items() if formula_hash(k) not in excluded}
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(("id", "formula", "formation_energy_mp_legacy", "formation_energy_mp2020"))
    for formula, (name, old, new) in sorted(rows.items()):
        table.writerow((name, formula, f"{old:.6f}", f"{new:.6f}"))
    file.write_bytes(gzip.compress(text.getvalue().encode(), mtime=0))
    return len(rows)


def rows_of_mp36k(data: Path) -> Rows:
    """The lowest crystal of each formula."""
    from ase import Atoms

    dataset = load_dataset(data / DATA, target=[TARGET])
    formulas = read_properties(data / DATA)[0]["reduced_formula"].tolist()
    energies = np.asarray(dataset.targets)[:, 0]
    lowest: dict[str, int] = {}
    for k in np.flatnonzero(np.isfinite(energies)).tolist():
        if formulas[k] not in lowest or energies[k] < energies[lowest[formulas[k]]]:
            lowest[formulas[k]] = k
    rows = {}
    for formula, k in with_progress(lowest.items(), "Phases", total=len(lowest)):
        shape, energy = dataset.structures[k], float(energies[k])
        atoms = Atoms(shape.numbers, shape.positions, cell=shape.cell, pbc=True)
        rows[formula] = (str(dataset.ids[k]), energy, energy - _shift(atoms, "mp-legacy") + _shift(atoms, "mp2020"))
    return rows


def newer_rows(data: Path, rows: Rows) -> Rows:
    """The rows, and the lowest entries of Li-Co-Ni-O as of 2024 where they are lower, or of new formulas.

    Entries of the test part stay out.
    """
    table = read_properties(data / _NEWER)[0]
    table = table[table["split"] != "test"].sort_values(TARGET)
    result = dict(rows)
    for name, formula, new in zip(table["material_id"], table["reduced_formula"], table[TARGET], strict=True):
        if formula not in result or new < result[formula][2] - _SAME:
            old = convert_formation_energy(float(new), formula, source="mp2020", to="mp-legacy")
            result[formula] = (str(name), old, float(new))
    return result


def _shift(atoms: "Atoms", scale: str) -> float:
    """Return what a scale adds to the uncorrected formation energy, eV/atom."""
    gases = element_energies(scale)
    plain = element_energies("uncorrected")
    of_elements = sum(gases[s] - plain[s] for s in atoms.symbols if gases.get(s) != plain.get(s))
    return (correction(str(atoms.symbols), scale, atoms=atoms) - of_elements) / len(atoms)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder that holds the data sets")
    parser.add_argument("--output", type=Path, default=Path(__file__).parents[1] / "stability" / TABLE)
    options = parser.parse_args()
    n = pack(options.data, options.output)
    sys.stdout.write(f"{options.output}: {n} formulas\n")


if __name__ == "__main__":
    main()
