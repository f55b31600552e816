"""The one structure that a command works on."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ase import Atoms


def one_structure(path: str, wanted: str | None, *, order_disordered: bool = False) -> "tuple[str, Atoms]":
    """The one structure that a path names, with its id.

    Parameters
    ----------
    path
        A structure file.
    wanted
        Id of the structure, where the file holds several.
    order_disordered
        Make one ordered supercell where sites are partially occupied.

    Raises
    ------
    ValueError
        If there are several, or it cannot be read.
    """
    from cgcnn_ase.structures import collect_paths, iter_file

    files = collect_paths(path)
    if len(files) != 1:
        raise ValueError(f"{path}: takes one structure at a time, there are {len(files)} files")
    records = list(iter_file(files[0], order_disordered=order_disordered))
    ids = [record.id for record in records]
    few = ", ".join(ids[:5]) + (", ..." if len(ids) > 5 else "")
    if wanted is None and len(records) != 1:
        raise ValueError(f"{path}: holds {len(ids)} structures; name one with --structure ({few})")
    if wanted is not None and wanted not in ids:
        raise ValueError(f"{path}: no structure {wanted!r}; allowed: {few}")
    record = records[0 if wanted is None else ids.index(wanted)]
    return record.id, record.unwrap()
