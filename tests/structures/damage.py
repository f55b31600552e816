"""Packed files that are damaged, and the words that every door to them must use."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from ase.build import bulk

CRYSTALS = {"halite": bulk("NaCl", "rocksalt", a=5.64), "copper": bulk("Cu"), "iron": bulk("Fe")}
Arrays = dict[str, np.ndarray]


def arrays() -> Arrays:
    """Three crystals of four atoms, written out by ASE's own fractional coordinates."""
    atoms = list(CRYSTALS.values())
    return {
        "ids": np.array(list(CRYSTALS)),
        "lattice": np.array([each.cell.array for each in atoms]),
        "offsets": np.cumsum([0, *map(len, atoms)]),
        "numbers": np.concatenate([each.numbers for each in atoms]).astype(np.uint8),
        "frac": np.concatenate([each.get_scaled_positions(wrap=False) for each in atoms]),
        "pbc": np.ones((3, 3), dtype=bool),
    }


def _with(name: str, at: object, value: object) -> Callable[[Arrays], Arrays]:
    def change(each: Arrays) -> Arrays:
        each[name] = each[name].copy()
        each[name][at] = value
        return each

    return change


#: damage of the file as a whole, and what is said of it
OF_FILE: dict[str, tuple[Callable[[Arrays], Arrays], str]] = {
    "missing": (lambda a: {k: v for k, v in a.items() if k != "frac"}, "no array 'frac'"),
    "shape": (lambda a: a | {"lattice": a["lattice"][:2]}, r"'lattice' .* shape \(2, 3, 3\); needed .* \(3, 3, 3\)"),
    "type": (lambda a: a | {"numbers": a["numbers"] + 0.5}, "'numbers' is of type float64"),
    "offsets back": (_with("offsets", 2, 1), "'offsets' does not count up"),
    "offsets end": (_with("offsets", 3, 5), r"'numbers' .* shape \(4,\); needed are integers of shape \(5,\)"),
    "twice": (_with("ids", 2, "copper"), r"the id 'copper' is in it twice \(array 'ids'\)"),
}
#: damage of the structure called copper alone: what is said where it costs the set, and where it costs itself
OF_STRUCTURE: dict[str, tuple[Callable[[Arrays], Arrays], str, str]] = {
    "element": (
        _with("numbers", 2, 120),
        r"structure copper has an atomic number that is not from 1 to 100 \(array 'numbers'\)",
        "known are 1 .* to 100",
    ),
    "position": (_with("frac", 2, np.nan), r"structure copper .* not a finite number \(array 'frac'\)", "not a finite"),
    "cell": (
        _with("lattice", 1, np.inf),
        r"structure copper .* not a finite number \(array 'lattice'\)",
        "not .*finite",
    ),
    "flat": (_with("lattice", 1, 1.0), r"structure copper .* no volume \(array 'lattice'\)", "no volume"),
}


def write(file: Path, change: Callable[[Arrays], Arrays], *, compress: bool = False) -> Path:
    """A packed file with this damage."""
    (np.savez_compressed if compress else np.savez)(file, **change(arrays()))
    return file


def cut(file: Path, change: Callable[[Arrays], Arrays] = lambda a: a) -> Path:
    """A packed file that ends too early."""
    content = write(file, change).read_bytes()
    file.write_bytes(content[: len(content) * 2 // 3])
    return file
