"""Pack the table of competing phases: ``python -m cgcnn_ase.zoo.competing_phases --data FOLDER``.

Of each formula of the data set mp36k the lowest crystal, with its formation energy on the data set's scale and on that
of 2020. There are no structures in it.
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
from cgcnn_ase.energies.scales import correction, element_energies
from cgcnn_ase.stability.phases import TABLE
from cgcnn_ase.zoo.distorted import DATA, TARGET

if TYPE_CHECKING:
    from ase import Atoms


def pack(data: Path, file: Path) -> int:
    """Write the table; return the number of formulas."""
    from ase import Atoms

    dataset = load_dataset(data / DATA, target=[TARGET])
    formulas = read_properties(data / DATA)[0]["reduced_formula"].tolist()
    energies = np.asarray(dataset.targets)[:, 0]
    lowest: dict[str, int] = {}
    for k in np.flatnonzero(np.isfinite(energies)).tolist():
        if formulas[k] not in lowest or energies[k] < energies[lowest[formulas[k]]]:
            lowest[formulas[k]] = k
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(("id", "formula", "formation_energy_mp_legacy", "formation_energy_mp2020"))
    for formula, k in with_progress(sorted(lowest.items()), "Phases", total=len(lowest)):
        shape = dataset.structures[k]
        atoms = Atoms(shape.numbers, shape.positions, cell=shape.cell, pbc=True)
        old, new = (_shift(atoms, scale) for scale in ("mp-legacy", "mp2020"))
        rows.writerow((dataset.ids[k], formula, f"{energies[k]:.6f}", f"{energies[k] - old + new:.6f}"))
    file.write_bytes(gzip.compress(text.getvalue().encode(), mtime=0))
    return len(lowest)


def _shift(atoms: "Atoms", scale: str) -> float:
    """What a scale adds to the uncorrected formation energy, eV/atom."""
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
