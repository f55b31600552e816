"""Order 100 crystals with mixed and partly empty sites, and compare with pymatgen where that ends.

    python benchmarks/disordered_files.py --list                       # what they are, as CSV
    python benchmarks/disordered_files.py --write FOLDER               # the CIF files
    python benchmarks/disordered_files.py                              # orders each in about 120 atoms
    python benchmarks/disordered_files.py --n-atoms 24 --pymatgen 30   # pymatgen has 30 s for the same supercells

The energy is Ewald's of the same charges in the same supercell; pymatgen orders it with the fast algorithm of its
``OrderDisorderedStructureTransformation``. Without --pymatgen it is not run.

Layered oxides, spinels, olivines, garnets and argyrodites, with one to four mixed sites. The first 36 are published:
``disordered_published.yaml`` names the paper of each, and what its text states. Cell lengths are rounded and positions
are those of the structure type: the files show what experimental ones look like and are no reference for the crystals.
The others have compositions drawn with a fixed seed. Nothing in this list depends on the code that orders them.
"""

import csv
import json
import multiprocessing
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from queue import Empty
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml
from _report import Table, machine, parser
from _structures import echo_stderr
from ase.cell import Cell

from cgcnn_ase.structures import read_file
from cgcnn_ase.structures.disorder import crystal_of_block
from cgcnn_ase.structures.ordering import OrderingOptions, OrderingWarning, mixed_sites

if TYPE_CHECKING:
    from ase import Atoms

    from cgcnn_ase.structures.ordering import DisorderedCrystal

Occupancies = dict[str, float]
Position = tuple[float, float, float]

SEED = 20261130  # of the compositions that are drawn


@dataclass(frozen=True)
class Prototype:
    """A structure type: space group as gemmi names it, cell (Å, degrees), and its sites."""

    family: str
    group: str
    cell: tuple[float, float, float, float, float, float]
    sites: Mapping[str, tuple[str, Position]]  # label: the element that is there by default, and its place


@dataclass(frozen=True)
class DisorderedFile:
    """One file: the sites of a prototype with other occupants than the default."""

    name: str
    prototype: str
    occupancies: Mapping[str, Occupancies]
    source: str = ""  # the paper; empty where the composition was drawn
    checked: str = ""  # what its text was seen to state; see the YAML file
    charges: Mapping[str, str] | None = None  # written behind each element where the file states them

    @property
    def n_mixed(self) -> int:
        """Sites of the asymmetric unit that are shared or partly empty."""
        return sum(not (len(species) == 1 and sum(species.values()) == 1) for species in self.occupancies.values())


def _hexagonal(a: float, c: float) -> tuple[float, float, float, float, float, float]:
    return a, a, c, 90.0, 90.0, 120.0


def _cubic(a: float) -> tuple[float, float, float, float, float, float]:
    return a, a, a, 90.0, 90.0, 90.0


_O3_SITES = {"M": ("Ni", (0, 0, 0.5)), "O": ("O", (0, 0, 0.2415))}
_GARNET_SITES = {
    "Li1": ("Li", (0.375, 0, 0.25)), "Li2": ("Li", (0.0983, 0.6854, 0.5771)), "La": ("La", (0.125, 0, 0.25)),
    "Zr": ("Zr", (0, 0, 0)), "O": ("O", (-0.0315, 0.0548, 0.1494)),
}  # fmt: skip
PROTOTYPES = {
    "O3": Prototype("layered", "R -3 m:H", _hexagonal(2.87, 14.21), {"Li": ("Li", (0, 0, 0)), **_O3_SITES}),
    "O3-Na": Prototype(
        "layered", "R -3 m:H", _hexagonal(2.97, 15.95),
        {"Na": ("Na", (0, 0, 0)), "M": ("Ni", (0, 0, 0.5)), "O": ("O", (0, 0, 0.2335))},
    ),
    "P2": Prototype(
        "layered", "P 63/m m c", _hexagonal(2.89, 11.15),
        {
            "Naf": ("Na", (0, 0, 0.25)), "Nae": ("Na", (1 / 3, 2 / 3, 0.75)), "M": ("Mn", (0, 0, 0)),
            "O": ("O", (1 / 3, 2 / 3, 0.0915)),
        },
    ),
    "spinel": Prototype(
        "spinel", "F d -3 m:2", _cubic(8.2),
        {"A": ("Li", (0.125, 0.125, 0.125)), "B": ("Mn", (0.5, 0.5, 0.5)), "O": ("O", (0.263, 0.263, 0.263))},
    ),
    "olivine": Prototype(
        "olivine", "P n m a", (10.33, 6.01, 4.69, 90.0, 90.0, 90.0),
        {
            "M1": ("Li", (0, 0, 0)), "M2": ("Fe", (0.2822, 0.25, 0.9747)), "P": ("P", (0.0949, 0.25, 0.4182)),
            "O1": ("O", (0.0968, 0.25, 0.7428)), "O2": ("O", (0.4571, 0.25, 0.2060)),
            "O3": ("O", (0.1656, 0.0465, 0.2848)),
        },
    ),
    "garnet": Prototype("garnet", "I a -3 d", _cubic(12.95), _GARNET_SITES),
    "silicate-garnet": Prototype(
        "garnet", "I a -3 d", _cubic(11.56),
        {
            "X": ("Mg", (0.125, 0, 0.25)), "Y": ("Al", (0, 0, 0)), "Si": ("Si", (0.375, 0, 0.25)),
            "O": ("O", (0.0329, 0.0502, 0.6533)),
        },
    ),
    "argyrodite": Prototype(
        "argyrodite", "F -4 3 m", _cubic(9.86),
        {
            "Li": ("Li", (0.6912, 0.9749, 0.3088)), "P": ("P", (0.5, 0.5, 0.5)), "S1": ("S", (0.6190, 0.6190, 0.6190)),
            "S2": ("S", (0.25, 0.25, 0.25)), "X": ("Cl", (0, 0, 0)),
        },
    ),
}  # fmt: skip

_NCM = {"Li": "1+", "Na": "1+", "Ni": "3+", "Co": "3+", "Mn": "4+", "O": "2-"}

#: name, prototype, occupancies and paper of each published crystal, and what of it was compared with the paper's text
PUBLISHED = Path(__file__).with_name("disordered_published.yaml")

#: what may share each site of the files that are drawn: the main occupant, others, and the most that may be empty
_DRAWN: tuple[tuple[str, int, dict[str, tuple[str, tuple[str, ...], float]]], ...] = (
    ("O3", 18, {"M": ("Ni", ("Co", "Mn", "Al", "Mg", "Ti"), 0.0), "Li": ("Li", ("Ni",), 0.6), "O": ("O", ("F",), 0.0)}),
    ("P2", 6, {"Nae": ("Na", (), 0.7), "Naf": ("Na", (), 0.9), "M": ("Mn", ("Ni", "Fe", "Cu", "Mg"), 0.0),
               "O": ("O", ("F",), 0.0)}),
    ("spinel", 14, {"B": ("Mn", ("Ni", "Cr", "Al", "Li", "Fe"), 0.0), "A": ("Li", ("Zn", "Mn"), 0.5),
                    "O": ("O", ("F",), 0.0)}),
    ("olivine", 10, {"M2": ("Fe", ("Mn", "Co", "Mg"), 0.0), "M1": ("Li", ("Fe",), 0.6), "P": ("P", ("Si",), 0.0),
                     "O3": ("O", ("F",), 0.0)}),
    ("garnet", 7, {"Li2": ("Li", (), 0.7), "Li1": ("Li", ("Al",), 0.5), "Zr": ("Zr", ("Ta", "Nb", "W"), 0.0),
                   "La": ("La", ("Ba", "Ca"), 0.0)}),
    ("argyrodite", 9, {"Li": ("Li", (), 0.55), "S2": ("S", ("Cl", "Br"), 0.0), "X": ("Cl", ("S", "Br"), 0.0),
                       "P": ("P", ("Ge", "Si"), 0.0)}),
)  # fmt: skip


def disordered_files() -> list[DisorderedFile]:
    """All 100, the published ones first."""
    published = [
        DisorderedFile(**entry, charges=_NCM if k % 3 == 2 and entry["prototype"][0] == "O" else None)
        for k, entry in enumerate(yaml.safe_load(PUBLISHED.read_text(encoding="utf-8")))
    ]
    return [*published, *_drawn()]


def _drawn() -> Iterator[DisorderedFile]:
    rng = np.random.default_rng(SEED)
    for prototype, number, sites in _DRAWN:
        for k in range(number):
            n_mixed = 1 + k % min(4, len(sites))
            chosen = list(sites)[:n_mixed]
            yield DisorderedFile(
                f"{prototype}_{k:02d}", prototype, {site: _mixture(sites[site], rng) for site in chosen}
            )


def _mixture(allowed: tuple[str, tuple[str, ...], float], rng: np.random.Generator) -> Occupancies:
    """Hundredths of a main occupant, of up to three others, and of vacancies where there may be any."""
    main, others, most_empty = allowed
    empty = int(rng.integers(5, round(100 * most_empty))) if most_empty else 0
    species = [str(s) for s in rng.permutation(others)[: int(rng.integers(1, 4))]] if others else []
    if empty and species and rng.random() < 0.5:
        species = []
    parts = [int(n) for n in rng.integers(2, 20, size=len(species))]
    return {main: (100 - empty - sum(parts)) / 100, **{s: n / 100 for s, n in zip(species, parts, strict=True)}}


def cif_text(file: DisorderedFile) -> str:
    """The CIF, with the operations of its space group."""
    import gemmi

    prototype = PROTOTYPES[file.prototype]
    group = gemmi.find_spacegroup_by_name(prototype.group)
    names = ("_cell_length_a", "_cell_length_b", "_cell_length_c", "_cell_angle_alpha", "_cell_angle_beta",
             "_cell_angle_gamma")  # fmt: skip
    lines = [f"data_{file.name}", *(f"{tag} {value:g}" for tag, value in zip(names, prototype.cell, strict=True))]
    lines += [f"_symmetry_space_group_name_H-M '{group.hm}'", f"_symmetry_Int_Tables_number {group.number}"]
    lines += ["loop_", "_symmetry_equiv_pos_as_xyz", *(f"'{op.triplet()}'" for op in group.operations())]
    lines += ["loop_", "_atom_site_label", "_atom_site_type_symbol", "_atom_site_fract_x", "_atom_site_fract_y",
              "_atom_site_fract_z", "_atom_site_occupancy"]  # fmt: skip
    numbers: dict[str, int] = {}
    for site, (default, position) in prototype.sites.items():
        for element, occupancy in file.occupancies.get(site, {default: 1}).items():
            numbers[element] = numbers.get(element, 0) + 1
            charge = file.charges.get(element, "") if file.charges else ""
            x, y, z = (f"{coordinate:.5f}" for coordinate in position)
            lines.append(f"{element}{numbers[element]} {element}{charge} {x} {y} {z} {occupancy:g}")
    return "\n".join(lines) + "\n"


def write_files(folder: Path) -> list[Path]:
    """Write all CIF files; their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for file in disordered_files():
        paths.append(folder / f"{file.name}.cif")
        paths[-1].write_text(cif_text(file), encoding="utf-8")
    return paths


def write_list() -> None:
    """The list, as CSV on stdout."""
    rows = csv.writer(sys.stdout, lineterminator="\n")
    rows.writerow(["name", "family", "prototype", "mixed_sites", "occupancies", "source", "checked"])
    for file in disordered_files():
        sites = "; ".join(
            f"{site}: {' '.join(f'{element}{occupancy:g}' for element, occupancy in species.items())}"
            for site, species in file.occupancies.items()
        )
        rows.writerow(
            [
                file.name,
                PROTOTYPES[file.prototype].family,
                file.prototype,
                file.n_mixed,
                sites,
                file.source or "drawn",
                file.checked,
            ]
        )


def measure(file: DisorderedFile, folder: Path, n_atoms: int, pymatgen_limit: float) -> dict[str, Any]:
    """Time, composition and energy of one file."""
    path = folder / f"{file.name}.cif"
    path.write_text(cif_text(file), encoding="utf-8")
    start = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", OrderingWarning)
        (record,) = read_file(path, order_disordered=OrderingOptions(n_atoms=n_atoms))
    seconds = time.perf_counter() - start
    atoms = record.unwrap()
    off = _composition_error(file, atoms)
    result = {
        "name": file.name, "family": PROTOTYPES[file.prototype].family, "mixed_sites": file.n_mixed, "seconds": seconds,
        "n_atoms": len(atoms), "rounding": atoms.info["ordering_rounding"], "composition_error": off,
    }  # fmt: skip
    if pymatgen_limit > 0:
        result |= _against_pymatgen(file, path, atoms, n_atoms, pymatgen_limit)
    return result


def _composition_error(file: DisorderedFile, atoms: "Atoms") -> float:
    """The largest difference of an element's number from the file's, in parts of the mixed sites.

    Counted from the list above, so it is at most the rounding if that is stated truly.
    """
    prototype = PROTOTYPES[file.prototype]
    sizes = _multiplicities(prototype)
    asked: dict[str, float] = {}
    for site, (default, _) in prototype.sites.items():
        for element, occupancy in file.occupancies.get(site, {default: 1.0}).items():
            asked[element] = asked.get(element, 0.0) + occupancy * sizes[site]
    n_cells = atoms.get_volume() / abs(float(np.linalg.det(Cell.fromcellpar(prototype.cell))))
    symbols = atoms.get_chemical_symbols()
    n_mixed = sum(sizes[site] for site, species in file.occupancies.items() if species not in [{e: 1} for e in species])
    return float(max(abs(symbols.count(e) / n_cells - n) for e, n in asked.items()) / n_mixed)


def _multiplicities(prototype: Prototype) -> dict[str, int]:
    """Sites of each orbit in the cell, by applying the operations of the group."""
    import gemmi

    operations = list(gemmi.find_spacegroup_by_name(prototype.group).operations())
    return {
        site: len({tuple(round(x % 1.0, 3) % 1.0 for x in op.apply_to_xyz(list(position))) for op in operations})
        for site, (_, position) in prototype.sites.items()
    }


def _against_pymatgen(file: DisorderedFile, path: Path, atoms: "Atoms", n_atoms: int, limit: float) -> dict[str, Any]:
    """Ewald energies of our ordering and of pymatgen's, which runs in a process that is ended when its time is up."""
    from pymatgen.core import Structure

    sites, _ = mixed_sites(_crystal(path), OrderingOptions(n_atoms=n_atoms))
    charges = sites.charges
    if charges is None:
        return {}
    states = charges.states or {e: float(f"{q[-1]}{q[:-1]}") for e, q in (file.charges or {}).items()}
    species = [
        {f"{o.symbol}{abs(states[o.symbol]):.12g}{'-' if states[o.symbol] < 0 else '+'}": n / sum(counts.values())
         for o, n in counts.items() if o is not None and n}
        for counts in sites.counts
    ]  # fmt: skip
    structure = Structure(
        sites.atoms.cell.array, [species[g] for g in sites.groups], sites.atoms.positions, coords_are_cartesian=True
    )
    queue: Any = multiprocessing.get_context("spawn").Queue()
    process = multiprocessing.get_context("spawn").Process(target=_order_by_pymatgen, args=(structure.as_dict(), queue))
    start = time.perf_counter()
    process.start()
    try:
        energy = queue.get(timeout=limit)
        seconds: float | None = time.perf_counter() - start
    except Empty:
        energy, seconds = None, None
    process.terminate()
    process.join()
    structure = Structure(atoms.cell.array, atoms.get_chemical_symbols(), atoms.positions, coords_are_cartesian=True)
    structure.add_oxidation_state_by_element(states)
    return {"ewald": _ewald(structure), "pymatgen_ewald": energy, "pymatgen_seconds": seconds}


def _crystal(path: Path) -> "DisorderedCrystal":
    import gemmi

    return crystal_of_block(gemmi.cif.read_string(path.read_text()).sole_block())


def _order_by_pymatgen(described: dict[str, Any], queue: Any) -> None:
    from pymatgen.core import Structure
    from pymatgen.transformations.standard_transformations import OrderDisorderedStructureTransformation

    warnings.simplefilter("ignore")
    transformation = OrderDisorderedStructureTransformation(
        algo=OrderDisorderedStructureTransformation.ALGO_FAST, no_oxi_states=False, occ_tol=0.25
    )
    try:
        queue.put(_ewald(transformation.apply_transformation(Structure.from_dict(described))))
    except (ValueError, RuntimeError, IndexError, TypeError, AttributeError) as error:
        queue.put(None)
        raise SystemExit(f"pymatgen: {error}") from error


def _ewald(structure: Any) -> float:
    from pymatgen.analysis.ewald import EwaldSummation

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return float(EwaldSummation(structure).total_energy)


def tables(rows: list[dict[str, Any]]) -> list[Table]:
    """All files by family, and those that pymatgen was asked for."""
    by_family = Table(
        "Ordering 100 disordered files",
        ["family", "files", "longest (s)", "median (s)", "largest rounding", "largest error of composition", "atoms"],
    )
    for family in dict.fromkeys(row["family"] for row in rows):
        of = [row for row in rows if row["family"] == family]
        seconds, sizes = [row["seconds"] for row in of], [row["n_atoms"] for row in of]
        by_family.rows.append(
            [family, len(of), max(seconds), float(np.median(seconds)), max(row["rounding"] for row in of),
             max(row["composition_error"] for row in of), f"{min(sizes)} to {max(sizes)}"]
        )  # fmt: skip
    peers = Table("Ewald energy (eV a cell)", ["file", "atoms", "time (s)", "energy", "pymatgen (s)", "its energy"])
    peers.rows = [
        [row["name"], row["n_atoms"], row["seconds"], f"{row['ewald']:.3f}", row["pymatgen_seconds"],
         None if row["pymatgen_ewald"] is None else f"{row['pymatgen_ewald']:.3f}"]
        for row in rows if "ewald" in row
    ]  # fmt: skip
    return [by_family, peers] if peers.rows else [by_family]


def main() -> None:
    """Command line."""
    made = parser(__doc__ or "", data=False)
    made.add_argument("--list", action="store_true", help="only print the list, as CSV")
    made.add_argument("--write", type=Path, metavar="FOLDER", help="only write the CIF files")
    made.add_argument("--every", type=int, default=1, metavar="N", help="take every Nth file")
    made.add_argument("--n-atoms", type=int, default=OrderingOptions().n_atoms, help="about so many atoms each")
    made.add_argument("--pymatgen", type=float, default=0.0, metavar="SECONDS", help="pymatgen's time for a file")
    chosen = made.parse_args()
    if chosen.list:
        write_list()
        return
    if chosen.write is not None:
        write_files(chosen.write)
        return
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        for file in disordered_files()[:: chosen.every]:
            rows.append(measure(file, Path(folder), chosen.n_atoms, chosen.pymatgen))
            echo_stderr(f"{rows[-1]}")
    print(f"_{machine()}_\n\n" + "\n".join(table.markdown() for table in tables(rows)))
    if chosen.output is not None:
        named = {table.title: {"rows": table.records()} for table in tables(rows)}
        content = {"machine": machine(), "files": rows, "tables": named}
        chosen.output.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
