"""Writes the example structures of ``examples/structures`` from published lattice parameters.

Run it as it stands: ``python examples/make_structures.py [FOLDER]``. It prints each crystal with its shortest bond,
and writes a table of all references into the folder's README.md.
"""

import argparse
from pathlib import Path
from typing import NamedTuple

import numpy as np
from ase import Atoms
from ase.io import write
from ase.neighborlist import neighbor_list
from ase.spacegroup import crystal
from pymatgen.core import Lattice, Structure
from pymatgen.io.cif import CifWriter

HERE = Path(__file__).resolve().parent

WYCKOFF = "R. W. G. Wyckoff, Crystal Structures, vol. 1, 2nd ed. (Interscience, 1963)"


class Crystal(NamedTuple):
    """One published structure; hexagonal axes for rhombohedral crystals, origin choice 2 for diamond."""

    file: str
    name: str
    space_group: str
    number: int
    cell: tuple[float, float, float, float, float, float]  # Å, degrees
    sites: dict[str, list[tuple[float, float, float]]]  # element -> fractional coordinates, one an orbit
    reference: str


CRYSTALS = [
    Crystal(
        "LiNiO2.cif",
        "layered lithium nickel oxide",
        "R-3m",
        166,
        (2.878, 2.878, 14.19, 90, 90, 120),
        {"Li": [(0, 0, 0.5)], "Ni": [(0, 0, 0)], "O": [(0, 0, 0.2582)]},
        "Cell: L. D. Dyer, B. S. Borie, G. P. Smith, J. Am. Chem. Soc. 76, 1499 (1954); oxygen height as in Rietveld "
        "refinements of nearly stoichiometric samples, e.g. A. Rougier, P. Gravereau, C. Delmas, J. Electrochem. Soc. "
        "143, 1168 (1996)",
    ),
    Crystal(
        "LiCoO2.cif",
        "layered lithium cobalt oxide",
        "R-3m",
        166,
        (2.8161, 2.8161, 14.0536, 90, 90, 120),
        {"Li": [(0, 0, 0)], "Co": [(0, 0, 0.5)], "O": [(0, 0, 0.23968)]},
        "J. Akimoto, Y. Gotoh, Y. Oosawa, J. Solid State Chem. 141, 298 (1998)",
    ),
    Crystal(
        "LiFePO4.cif",
        "triphylite",
        "Pnma",
        62,
        (10.332, 6.010, 4.692, 90, 90, 90),
        {
            "Li": [(0, 0, 0)],
            "Fe": [(0.28222, 0.25, 0.97472)],
            "P": [(0.09486, 0.25, 0.41820)],
            "O": [(0.09678, 0.25, 0.74279), (0.45710, 0.25, 0.20602), (0.16558, 0.04646, 0.28478)],
        },
        "V. A. Streltsov, E. L. Belokoneva, V. G. Tsirelson, N. K. Hansen, Acta Cryst. B 49, 147 (1993)",
    ),
    Crystal(
        "Li2O.cif",
        "lithium oxide, antifluorite",
        "Fm-3m",
        225,
        (4.619, 4.619, 4.619, 90, 90, 90),
        {"Li": [(0.25, 0.25, 0.25)], "O": [(0, 0, 0)]},
        WYCKOFF,
    ),
    Crystal(
        "NiO.cif",
        "bunsenite, rock salt",
        "Fm-3m",
        225,
        (4.1684, 4.1684, 4.1684, 90, 90, 90),
        {"Ni": [(0, 0, 0)], "O": [(0.5, 0.5, 0.5)]},
        WYCKOFF,
    ),
    Crystal(
        "MgO.cif",
        "periclase, rock salt",
        "Fm-3m",
        225,
        (4.2112, 4.2112, 4.2112, 90, 90, 90),
        {"Mg": [(0, 0, 0)], "O": [(0.5, 0.5, 0.5)]},
        WYCKOFF,
    ),
    Crystal(
        "TiO2-rutile.vasp",
        "rutile",
        "P4_2/mnm",
        136,
        (4.59373, 4.59373, 2.95812, 90, 90, 90),
        {"Ti": [(0, 0, 0)], "O": [(0.3053, 0.3053, 0)]},
        WYCKOFF,
    ),
    Crystal(
        "SrTiO3.vasp",
        "strontium titanate, cubic perovskite",
        "Pm-3m",
        221,
        (3.905, 3.905, 3.905, 90, 90, 90),
        {"Sr": [(0.5, 0.5, 0.5)], "Ti": [(0, 0, 0)], "O": [(0.5, 0, 0)]},
        "A. Okazaki, M. Kawaminami, Mater. Res. Bull. 8, 545 (1973)",
    ),
    Crystal(
        "Si.extxyz",
        "silicon, diamond",
        "Fd-3m",
        227,
        (5.431020511, 5.431020511, 5.431020511, 90, 90, 90),
        {"Si": [(0.125, 0.125, 0.125)]},
        "E. Tiesinga, P. J. Mohr, D. B. Newell, B. N. Taylor, Rev. Mod. Phys. 93, 025010 (2021), CODATA 2018",
    ),
    Crystal(
        "GaAs.extxyz",
        "gallium arsenide, zinc blende",
        "F-43m",
        216,
        (5.65325, 5.65325, 5.65325, 90, 90, 90),
        {"Ga": [(0, 0, 0)], "As": [(0.25, 0.25, 0.25)]},
        "I. Vurgaftman, J. R. Meyer, L. R. Ram-Mohan, J. Appl. Phys. 89, 5815 (2001)",
    ),
]


def build(entry: Crystal) -> Atoms:
    """The conventional cell of a published structure, by ASE's space-group tables."""
    symbols = [element for element, positions in entry.sites.items() for _ in positions]
    basis = [position for positions in entry.sites.values() for position in positions]
    setting = 2 if entry.space_group == "Fd-3m" else 1
    return crystal(symbols, basis, spacegroup=entry.number, setting=setting, cellpar=entry.cell)


def shortest_bond(atoms: Atoms) -> float:
    """The shortest distance between two atoms, in Å, periodic images included."""
    return float(neighbor_list("d", atoms, cutoff=4.0).min())


def save(entry: Crystal, atoms: Atoms, folder: Path) -> None:
    """Write one structure: CIF with its symmetry, POSCAR and extended XYZ with all atoms."""
    path = folder / entry.file
    if path.suffix == ".cif":
        structure = Structure(Lattice(atoms.cell.array), atoms.get_chemical_symbols(), atoms.get_scaled_positions())
        CifWriter(structure, symprec=1e-3).write_file(path)
    elif path.suffix == ".vasp":
        write(path, atoms[np.argsort(atoms.numbers, kind="stable")], format="vasp", direct=True)
    else:
        plain = Atoms(atoms.symbols, positions=atoms.positions, cell=atoms.cell, pbc=True)
        write(path, plain, format="extxyz")


def readme(rows: list[str]) -> str:
    """The table of references."""
    return "\n".join(
        [
            "# Example structures",
            "",
            "Written by `python examples/make_structures.py` from published cells and coordinates; no file of any",
            "database was copied. Each holds the conventional cell.",
            "",
            "| file | what | space group | atoms | a, b, c (Å) | shortest bond (Å) | reference |",
            "|---|---|---|---|---|---|---|",
            *rows,
            "",
        ]
    )


def main() -> None:
    """Write every structure and the table."""
    parser = argparse.ArgumentParser(description="Write the example structures.")
    parser.add_argument(
        "folder", nargs="?", type=Path, default=HERE / "structures", help="where to (default: %(default)s)"
    )
    folder = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)

    rows = []
    for entry in CRYSTALS:
        atoms = build(entry)
        save(entry, atoms, folder)
        bond = shortest_bond(atoms)
        lengths = ", ".join(f"{length:g}" for length in entry.cell[:3])
        print(f"{entry.file:<18} {atoms.get_chemical_formula():<12} {len(atoms):3d} atoms, shortest bond {bond:.3f} Å")
        cells = (f"`{entry.file}`", entry.name, entry.space_group, len(atoms), lengths, f"{bond:.3f}", entry.reference)
        rows.append("| " + " | ".join(map(str, cells)) + " |")
    (folder / "README.md").write_text(readme(rows), encoding="utf-8")


if __name__ == "__main__":
    main()
