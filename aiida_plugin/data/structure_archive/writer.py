"""Many structures as a few flat files: written one structure at a time, in bounded memory.

``lattice.npy`` (n, 3, 3) Å, ``pbc.npy`` (n, 3), ``offsets.npy`` (n + 1), ``numbers.npy`` and ``positions.npy``
(atoms, 3), Cartesian Å; ``hashes.npy`` (n,), by which a structure is found; ``ids.json``; ``rest.jsonl``, a line a
structure; ``columns.json`` names what only some structures have, of which ``column-0.npy`` holds the rows and
``column-0-owners.npy`` which structures have it. Equal structures in the same order give equal bytes.
"""

import json
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from aiida_plugin.data.labels import SCHEME, LabelKind, is_converged, kind_of, scheme_of
from aiida_plugin.data.structure_archive.arrays import FLAT, HASHES, NpyWriter, structure_hash
from aiida_plugin.data.structure_archive.atoms import SiteArray, take_apart

if TYPE_CHECKING:
    from ase import Atoms

FORMAT_VERSION = 1  # raised when the files change their meaning
_FORMULAS = 5  # how many formulas a summary names


def write_structures(structures: "Iterable[Atoms]", ids: Sequence[str] | None, folder: Path) -> dict[str, object]:
    """Write structures one at a time into an empty folder; return the attributes of `StructureSetData.from_ase`."""
    names = None if ids is None else _checked_ids(ids)
    writer = _Writer(folder)
    with writer.open_files:
        for k, atoms in enumerate(structures):
            if names is not None and k >= len(names):
                raise ValueError(f"there are more structures than ids ({len(names)})")
            writer.append(atoms, str(k) if names is None else names[k])
    if writer.n == 0:
        raise ValueError("a structure set needs at least one structure; none was given")
    if names is not None and writer.n != len(names):
        raise ValueError(f"there are {len(names)} ids for {writer.n} structures")
    (folder / "ids.json").write_text(json.dumps([str(k) for k in range(writer.n)] if names is None else names), "utf-8")
    return writer.finish()


def _checked_ids(ids: Sequence[str]) -> list[str]:
    seen: dict[str, int] = {}
    names: Sequence[object] = ids
    for k, name in enumerate(names):
        if not isinstance(name, str) or not name or "\0" in name:
            raise ValueError(f"id {k} is {name!r}; allowed is a string that is not empty and holds no NUL")
        if name in seen:
            raise ValueError(f"the id {name!r} is given twice, to structures {seen[name]} and {k}")
        seen[str(name)] = k
    return list(seen)


class _Writer:
    """The files while they grow."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.open_files = ExitStack()
        self.n = 0
        self._n_atoms = 0
        self._flat = {name: self._open(f"{name}.npy", *kind) for name, kind in FLAT.items()}
        self._flat["offsets"].append(np.zeros(1, dtype=np.int64))
        self._hashes = self._open(HASHES, "<u8", ())
        self._columns: dict[SiteArray, tuple[str, NpyWriter, NpyWriter]] = {}
        self._rest = self.open_files.enter_context((folder / "rest.jsonl").open("w", encoding="utf-8", newline="\n"))
        self._seen = np.zeros(256, dtype=bool)
        self._formulas: list[str] = []
        self._results: set[str] = set()
        self._labels_converged = True
        self._label_kinds: set[LabelKind] = set()

    def _open(self, name: str, dtype: str, shape: Sequence[int]) -> NpyWriter:
        return self.open_files.enter_context(NpyWriter(self.folder / name, dtype, shape))

    def append(self, atoms: "Atoms", name: str) -> None:
        parts = take_apart(atoms, f"structure {name!r}")
        self._n_atoms += len(parts.numbers)
        self._flat["lattice"].append(parts.lattice[None])
        self._flat["pbc"].append(parts.pbc[None])
        self._flat["offsets"].append(np.array([self._n_atoms]))
        self._flat["numbers"].append(parts.numbers)
        self._flat["positions"].append(parts.positions)
        content_hash = structure_hash(parts.lattice, parts.pbc, parts.numbers, parts.positions)
        self._hashes.append(np.array([content_hash], dtype=np.uint64))
        for column, array in parts.sites.items():
            if column not in self._columns:
                stem = f"growing-{len(self._columns)}"
                rows = self._open(f"{stem}.npy", column.dtype, column.shape)
                self._columns[column] = (stem, rows, self._open(f"{stem}-owners.npy", "<i8", ()))
            _, rows, owners = self._columns[column]
            rows.append(array)
            owners.append(np.array([self.n]))
        self._rest.write(parts.rest + "\n")
        self._seen[parts.numbers] = True
        if self.n < _FORMULAS:
            self._formulas.append(atoms.get_chemical_formula())
        names = _result_names(parts.rest) if '"results":{' in parts.rest else None
        self._results.update(names or ())
        if names is not None or SCHEME in atoms.info:
            self._label_kinds.add(kind_of(atoms.info.get(SCHEME)))
        self._labels_converged &= is_converged(scheme_of(atoms))
        self.n += 1

    def finish(self) -> dict[str, object]:
        """Name the columns in an order that does not depend on which structure came first, and sum up."""
        from ase.data import chemical_symbols

        columns = sorted(self._columns)
        for k, column in enumerate(columns):
            stem = self._columns[column][0]
            for end in (".npy", "-owners.npy"):
                (self.folder / f"{stem}{end}").rename(self.folder / f"column-{k}{end}")
        (self.folder / "columns.json").write_text(json.dumps(columns), "utf-8")
        of_sites = {group: {c.name for c in columns if c.group == group} for group in ("arrays", "results")}
        return {
            "format_version": FORMAT_VERSION,
            "n_structures": self.n,
            "n_atoms": self._n_atoms,
            "elements": [chemical_symbols[z] for z in np.flatnonzero(self._seen)],
            "formulas": self._formulas,
            "site_arrays": sorted(of_sites["arrays"]),
            "results": sorted(self._results | of_sites["results"]),
            "label_kinds": sorted(self._label_kinds),
            **({} if self._labels_converged else {"labels_converged": False}),
        }


def _result_names(rest: str) -> list[str] | None:
    """Names of the results that are not one an atom; None of a structure without a calculator."""
    results = json.loads(rest).get("results")
    return None if results is None else list(results)
