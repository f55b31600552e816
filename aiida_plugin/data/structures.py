"""`cgcnn.structures`: a set of one to a million structures as one node, from and to files."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from functools import cached_property
from numbers import Integral
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, BinaryIO

from aiida.common.exceptions import ValidationError
from aiida.orm import Data, StructureData

from aiida_plugin.data import attribute
from aiida_plugin.data.labels import SCHEME, kind_of, scheme_of
from aiida_plugin.data.structure_archive.archive import (
    FORMAT_VERSION,
    StructureTable,
    count_structures,
    iter_structures,
    read_arrays,
    read_hashes,
    read_ids,
    write_structures,
)
from aiida_plugin.data.structure_archive.arrays import StructureArrays
from cgcnn_ase.structures import read_structures
from cgcnn_ase.structures.packed import PackedStructures, pack_positions, write_packed

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from ase import Atoms

SINGLE = "0"  # id of a structure that is a node of AiiDA's own; its label does not count, as it can be changed


class StructureSetData(Data):
    """Structures of any sizes with ids, magnetic moments, info and computed results, lossless from and to ASE.

    Two sets of the same structures under the same ids in the same order have the same hash, so that calculations on
    them are cached; any other order, id, coordinate or info gives another hash. Attributes hold a small summary only:
    ``n_structures``, ``n_atoms``, ``elements``, ``formulas`` (of the first five), ``site_arrays``, ``results``,
    ``label_kinds`` (DFT, machine-learned, empirical, unknown: what the labels' schemes say) and ``format_version``; and
    ``labels_converged``, which is False where labels are marked as not converged, else missing.

    Of a calculator the results are kept (as ASE's ``SinglePointCalculator``), where they belong to the structure as it
    is. NumPy scalars in ``info`` come back as the Python numbers they equal.
    """

    class AttributesModel(Data.AttributesModel):
        """Fields for queries: ``StructureSetData.fields.attributes.n_structures`` and so on."""

        format_version: int = attribute("format_version", "The format of the files")
        n_structures: int = attribute("n_structures", "How many structures there are")
        n_atoms: int = attribute("n_atoms", "How many atoms all structures have together")
        elements: list[str] = attribute("elements", "The elements, by atomic number")
        formulas: list[str] = attribute("formulas", "The formulas of the first five structures")
        site_arrays: list[str] = attribute("site_arrays", "Names of arrays, initial magnetic moments for one")
        results: list[str] = attribute("results", "Names of results, energies and forces for two")
        labels_converged: bool | None = attribute(
            "labels_converged", "False where labels are marked as not converged", default=None
        )
        label_kinds: list[str] | None = attribute("label_kinds", "Kinds of method that made the labels", default=None)

    _hash_ignored_attributes = ("label_kinds",)  # told by the files, and not there in sets of early versions

    @classmethod
    def from_ase(cls, structures: "Iterable[Atoms]", ids: Sequence[str] | None = None) -> "StructureSetData":
        """A set of these structures, not yet stored.

        Parameters
        ----------
        structures
            Taken one at a time; none is changed.
        ids
            Their names, all different; by default ``"0"``, ``"1"``, ...

        Raises
        ------
        ValueError
            If there are no structures, if two ids are the same, if there are more or fewer ids than structures, or if
            a structure holds what no file can hold (an object in its info, say).
        """
        node = cls()
        with TemporaryDirectory() as folder:
            summary = write_structures(structures, ids, Path(folder))
            node.base.repository.put_object_from_tree(folder)
        node.base.attributes.set_many(summary)
        return node

    def _validate(self) -> bool:
        """Refuse to store a set that is empty or not whole."""
        super()._validate()
        version = self.base.attributes.get("format_version", None)
        if version is None:
            raise ValidationError("the structure set is empty; make it with StructureSetData.from_ase(structures)")
        if not len(self) == len(self.ids) == count_structures(self._open):
            raise ValidationError("the files of the structure set do not belong together; make it with from_ase")
        return True

    def _open(self, name: str) -> AbstractContextManager[BinaryIO]:
        """One of the files; an archive may have brought them from a newer version of this package."""
        version = self.base.attributes.get("format_version", FORMAT_VERSION)
        if version > FORMAT_VERSION:
            raise ValueError(
                f"the structure set {self.pk} is of format {version}, this version of cgcnn-ase reads formats up to "
                f"{FORMAT_VERSION}; install a newer one"
            )
        return self.base.repository.open(name, "rb")

    def __len__(self) -> int:
        return int(self.base.attributes.get("n_structures", 0))

    @cached_property
    def ids(self) -> tuple[str, ...]:
        """The names of the structures, in order."""
        return tuple(read_ids(self._open))

    @cached_property
    def hashes(self) -> "npt.NDArray[np.uint64]":
        """Of each structure: by them it is found, see `aiida_plugin.data.structure_archive.arrays`."""
        return read_hashes(self._open)

    @cached_property
    def _rows(self) -> dict[str, int]:
        return {name: k for k, name in enumerate(self.ids)}

    @cached_property
    def _arrays(self) -> StructureArrays:
        return read_arrays(self._open)

    @cached_property
    def _table(self) -> StructureTable:
        return StructureTable(self._arrays, self._open)

    def row_of(self, key: int | str) -> int:
        """The row, from 0, of a structure by its row (negative ones count from the end) or its id.

        Raises
        ------
        ValueError
            If there is no such structure.
        """
        if isinstance(key, str):
            if key not in self._rows:
                raise ValueError(f"no structure has the id {key!r}; the first of {len(self)} is {self.ids[0]!r}")
            return self._rows[key]
        if not isinstance(key, Integral):
            raise ValueError(f"{key!r} is a {type(key).__name__}; allowed are rows (integers) and ids (strings)")
        if not -len(self) <= key < len(self):
            raise ValueError(f"there is no row {key}; allowed are 0 to {len(self) - 1}")
        return int(key) % len(self)

    def rows_of(self, keys: Iterable[int | str]) -> list[int]:
        """The rows of some structures.

        Raises
        ------
        ValueError
            If none is named, one is named twice, or there is no such structure.
        """
        rows: dict[int, None] = {}
        for key in keys:
            row = self.row_of(key)
            if row in rows:
                raise ValueError(f"row {row} ({self.ids[row]!r}) is named twice")
            rows[row] = None
        if not rows:
            raise ValueError("indices is empty; name at least one row or id")
        return list(rows)

    def atoms(self, key: int | str) -> "Atoms":
        """One structure; `iter_atoms` is for all of them. Raises as `row_of` does."""
        return self._table.atoms(self.row_of(key))

    def iter_atoms(self) -> "Iterator[Atoms]":
        """Each structure in order, in bounded memory."""
        return iter_structures(self._open)

    def arrays(self) -> StructureArrays:
        """All structures as flat arrays, read-only; lengths in Å."""
        return self._arrays

    def select(self, indices: Iterable[int | str]) -> "StructureSetData":
        """The set of these structures (rows or ids), in this order, under the same ids; not yet stored.

        Raises
        ------
        ValueError
            If there is no such structure, if one is named twice, or if none is named.
        """
        rows = [self.row_of(key) for key in indices]
        return type(self).from_ase((self._table.atoms(row) for row in rows), [self.ids[row] for row in rows])

    def to_structure_data(self, key: int | str) -> StructureData:
        """One structure as AiiDA's own node, not yet stored; the id is its label and the extra ``structure_id``.

        AiiDA's node holds elements, positions, cell, periodicity, masses and tags (as kinds). Magnetic moments,
        charges, info and results are lost there.

        Raises
        ------
        ValueError
            If there is no such structure, or it has dummy atoms, which AiiDA's node does not know.
        """
        row = self.row_of(key)
        atoms = self._table.atoms(row)
        if not atoms.numbers.all():
            raise ValueError(f"structure {self.ids[row]!r} has dummy atoms (X); a StructureData has none")
        node = StructureData(ase=atoms)
        node.label = self.ids[row][:255]
        node.base.extras.set("structure_id", self.ids[row])
        return node

    def packed(self) -> PackedStructures:
        """The arrays of a packed file; moments, info and results are not among them."""
        return pack_positions(self.ids, **self.arrays()._asdict())

    def write_packed(self, path: str | Path) -> None:
        """Write the ``.npz`` file that ``cgcnn-ase predict`` reads. The same set gives the same bytes."""
        packed = self.packed()
        write_packed(Path(path), lambda: [packed], compress=False)

    @property
    def label_kinds(self) -> list[str]:
        """Kinds of method that made the labels, sorted; empty of a set without labels."""
        known: list[str] | None = self.base.attributes.get("label_kinds", None)
        if known is None:  # a set of an early version
            labelled = (atoms for atoms in self.iter_atoms() if atoms.calc is not None or SCHEME in atoms.info)
            known = sorted({kind_of(scheme_of(atoms)) for atoms in labelled})
        return known

    def summary(self) -> dict[str, object]:
        """The attributes: counts, elements, first formulas, names of further arrays and of results."""
        return dict(self.base.attributes.all)


def as_set(structures: StructureSetData | StructureData) -> StructureSetData:
    """The set itself; of a structure of AiiDA's own a set of one under the id `SINGLE`, not stored.

    Raises
    ------
    ValueError
        If sites of the structure are partially occupied.
    """
    if isinstance(structures, StructureSetData):
        return structures
    if structures.is_alloy or structures.has_vacancies:
        raise ValueError("the structure has partially occupied sites; order it first: cgcnn-ase --order-disordered")
    return StructureSetData.from_ase([structures.get_ase()], [SINGLE])


def read_set(
    paths: Sequence[str | Path], *, skip_bad: bool = False, order_disordered: bool = False
) -> tuple[StructureSetData, list[str]]:
    """The structures of files, folders and globs as one set, not yet stored, and a line on each that was left out.

    Parameters
    ----------
    paths, order_disordered
        As `cgcnn_ase.structures.read_structures` takes them.
    skip_bad
        Leave out what cannot be read.

    Raises
    ------
    ValueError
        If a structure cannot be read (without ``skip_bad``), none can be read, or two have one name.
    """
    kept: dict[str, Atoms] = {}
    bad: list[str] = []
    for record in read_structures(list(paths), order_disordered=order_disordered):
        if record.error is not None and skip_bad:
            bad.append(f"{record.source}: {record.error}")
        else:
            kept[record.id] = record.unwrap()
    if not kept:
        raise ValueError(f"no structure could be read; the first: {bad[0]}" if bad else "there are no structures")
    return StructureSetData.from_ase(kept.values(), list(kept)), bad


def write_set(node: StructureSetData, path: Path) -> Path:
    """Write a set to one ``.extxyz`` or packed ``.npz`` file, or into a new or empty folder of CIF files.

    The ids become ``info["id"]``, the packed file's ids, or the files' names. Another ending, a folder that holds
    something, and an id that cannot be a file's name are ValueErrors.
    """
    from ase.io import write

    if path.suffix == ".npz":
        node.write_packed(path)
    elif path.suffix in (".extxyz", ".xyz"):
        write(path, [_with_id(name, atoms) for name, atoms in zip(node.ids, node.iter_atoms(), strict=True)], "extxyz")
    elif path.suffix:
        raise ValueError(f"{path}: allowed are a .extxyz or .npz file, or a folder (for CIF files)")
    else:
        _write_folder(node, path)
    return path


def _with_id(name: str, atoms: "Atoms") -> "Atoms":
    atoms.info = {"id": name, **atoms.info}
    return atoms


def _write_folder(node: StructureSetData, folder: Path) -> None:
    from ase.io import write

    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{folder}: not an empty folder; a set is exported into a new or empty one")
    if bad := [name for name in node.ids if "/" in name or name.startswith(".")]:
        raise ValueError(f"the id {bad[0]!r} cannot be a file's name; write one .extxyz or .npz file")
    if not node.arrays().pbc.all():
        raise ValueError(
            "some structures are not periodic in all directions, which CIF cannot say; write an .extxyz file"
        )
    folder.mkdir(parents=True, exist_ok=True)
    for name, atoms in zip(node.ids, node.iter_atoms(), strict=True):
        write(folder / f"{name}.cif", atoms, "cif")
