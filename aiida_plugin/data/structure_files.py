"""Sets of structures from and to files."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from aiida_plugin.data.structures import StructureSetData
from cgcnn_ase.structures import read_structures

if TYPE_CHECKING:
    from ase import Atoms


def read_set(
    paths: Sequence[str | Path], *, skip_bad: bool = False, order_disordered: bool = False
) -> tuple[StructureSetData, list[str]]:
    """The structures of files, folders and globs as one set, not yet stored, under the names that this package gives.

    Parameters
    ----------
    paths
        As `cgcnn_ase.structures.read_structures` takes them.
    skip_bad
        Leave out what cannot be read.
    order_disordered
        Make one ordered supercell where sites are partially occupied, rather than refuse.

    Returns
    -------
    StructureSetData
        The set.
    list of str
        What was left out and why, a line each.

    Raises
    ------
    ValueError
        If a structure cannot be read (without ``skip_bad``), none can be read, or two have one name.
    """
    ids: list[str] = []
    bad: list[str] = []

    def structures() -> "Iterator[Atoms]":
        for record in read_structures(list(paths), order_disordered=order_disordered):
            if record.error is not None and skip_bad:
                bad.append(f"{record.source}: {record.error}")
                continue
            atoms = record.unwrap()
            ids.append(record.id)
            yield atoms

    kept = list(structures())
    if not kept:
        raise ValueError(f"no structure could be read; the first: {bad[0]}" if bad else "there are no structures")
    return StructureSetData.from_ase(kept, ids), bad


def write_set(node: StructureSetData, path: Path) -> Path:
    """Write a set to one ``.extxyz`` or packed ``.npz`` file, or into a new or empty folder of CIF files.

    The ids become ``info["id"]``, the packed file's ids, or the files' names.

    Raises
    ------
    ValueError
        If the path has another ending, the folder holds something, or an id cannot be a file's name.
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
