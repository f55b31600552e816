"""Labelled sets of structures -> the packed folder that ``cgcnn-ase train`` reads."""

import csv
import json
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple, cast

import numpy as np

from aiida_plugin.data.labels import listed, merge_schemes, named_label, scheme_of
from aiida_plugin.data.structures import StructureSetData
from cgcnn_ase.core.arrays import Floats, Strings
from cgcnn_ase.structures.packed import write_packed

if TYPE_CHECKING:
    from ase import Atoms

# settings that say how the sets become the data of a run
DATA = ("val", "test", "split_by", "split_seed", "unlabelled", "mixed_labels")
_LARGEST = 1 / 3  # a group larger than this part of the structures is not held out as a whole to validate
_MAX_READ = 4
By = Literal["group", "structure"]


class Division(NamedTuple):
    """Of each structure ``train``, ``val`` or ``test``, and whether groups were kept together."""

    split: Strings
    by: By


def divide(groups: Sequence[Hashable], *, val: float, test: float, seed: int) -> Division:
    """Divide structures by their groups (formula, host), so that no group is in two parts.

    At least one structure is held out to validate. Where there are too few groups for that, or the smallest is more
    than a third of all, single structures are drawn instead. `val` and `test` are parts of the groups, from 0 to less
    than 1. A ValueError is raised for fewer than 2 structures, or parts that leave nothing to train on.
    """
    from cgcnn_ase.data.splits import group_split, random_split

    n = len(groups)
    if n < 2:
        raise ValueError(
            f"training needs at least 2 labelled structures, one to learn from and one to hold out; got {n}"
        )
    split = group_split([repr(group) for group in groups], val=val, test=test, seed=seed)
    if (split == "val").any() and (split == "train").any():
        return Division(split, "group")
    held_out = _smallest_group(groups, split)
    if held_out is not None and len(held_out) <= _LARGEST * n:
        split[held_out] = "val"
        return Division(split, "group")
    split = random_split(n, val=val, test=test, seed=seed)
    if not (split == "train").any():
        split[:] = "train"
    if not (split == "val").any():
        rows = np.flatnonzero(split == "train")
        if len(rows) < 2:
            split[split == "test"] = "train"
            rows = np.flatnonzero(split == "train")
        split[np.random.default_rng(seed).choice(rows)] = "val"
    return Division(split, "structure")


def _smallest_group(groups: Sequence[Hashable], split: Strings) -> list[int] | None:
    """Rows of the smallest group to learn from, where another is left."""
    rows: dict[Hashable, list[int]] = {}
    for k, group in enumerate(groups):
        if split[k] == "train":
            rows.setdefault(group, []).append(k)
    return min(rows.values(), key=len) if len(rows) > 1 else None


class TrainingData(NamedTuple):
    """The rows of all sets, those of ``structures`` first."""

    ids: list[str]
    labels: list[float | None]  # None of one that has none and is left out
    split: Strings
    split_by: By | None  # whether formulas (or what else was asked) are kept together, or single structures were drawn
    scheme: dict[str, object] | None  # what made the labels; None where it is not known or several are mixed
    sets: list[StructureSetData]  # the nodes

    def count(self, split: str) -> int:
        """How many labelled structures a split has."""
        return sum(
            label is not None and assigned == split for label, assigned in zip(self.labels, self.split, strict=True)
        )

    def write(self, folder: Path, target: str) -> None:
        """Write ``structures.npz`` and ``properties.csv``."""
        parts = [each.packed() for each in self.sets]
        write_packed(folder / "structures.npz", lambda: parts, compress=False)
        with (folder / "properties.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["id", target, "split"])
            for name, label, split in zip(self.ids, self.labels, self.split.tolist(), strict=True):
                writer.writerow([name, "" if label is None else repr(label), split])

    def check_frames(self) -> None:
        """Raise a ValueError that names a structure without forces."""
        for each in self.sets:
            for name, atoms in zip(each.ids, each.iter_atoms(), strict=True):
                _frame(name, atoms)

    def write_frames(self, folder: Path, scale: str) -> None:
        """Write what a potential learns; see :func:`write_frames`."""
        by_name = dict(zip(self.ids, self.split.tolist(), strict=True))
        for_all = (
            self.sets[0]
            if len(self.sets) == 1
            else StructureSetData.from_ase((atoms for each in self.sets for atoms in each.iter_atoms()), self.ids)
        )
        write_frames(for_all, folder, scale, by_name)


def write_frames(
    structures: StructureSetData, folder: Path, scale: str, split: Mapping[str, str] | None = None
) -> None:
    """Write a packed folder with energies (eV a cell), forces and stress, as ``cgcnn-ase train`` reads frames.

    Raises
    ------
    ValueError
        Naming a structure without energy or forces.
    """
    frames = [_frame(name, atoms) for name, atoms in zip(structures.ids, structures.iter_atoms(), strict=True)]
    np.savez(
        folder / "structures.npz",
        **structures.packed()._asdict(),
        forces=np.concatenate([forces for _, forces, _ in frames]),
        stress=np.stack([stress for _, _, stress in frames]),
    )
    with (folder / "properties.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "energy", "scale", *([] if split is None else ["split"])])
        for name, (energy, _, _) in zip(structures.ids, frames, strict=True):
            writer.writerow([name, repr(energy), scale, *([] if split is None else [split[name]])])


def _frame(name: str, atoms: "Atoms") -> tuple[float, Floats, Floats]:
    """Energy, forces (n, 3), and stress (3, 3), NaN where there is none."""
    from ase.stress import voigt_6_to_full_3x3_stress

    results = {} if atoms.calc is None else atoms.calc.results
    if missing := sorted({"energy", "forces"} - set(results)):
        raise ValueError(f"structure {name!r} has no {' and no '.join(missing)}; a potential learns from both")
    stress = np.full((3, 3), np.nan)
    if "stress" in results and atoms.pbc.all():
        stress = voigt_6_to_full_3x3_stress(np.asarray(results["stress"], dtype=float))
    return float(results["energy"]), np.asarray(results["forces"], dtype=float), stress


_READ: dict[tuple[tuple[tuple[str, str], ...], str, str], TrainingData] = {}  # what was read of sets lately


def gather(
    structures: StructureSetData,
    target: str,
    settings: Mapping[str, object],
    *,
    val: StructureSetData | None = None,
    test: StructureSetData | None = None,
) -> TrainingData:
    """Read the labels, see that they can be learned together, and divide the structures.

    Parameters
    ----------
    structures, val, test
        To learn from, and labelled sets; parts of the first validate and test where no sets are given for that.
    target
        See :func:`cgcnn_ase.structures.record.label_of`.
    settings
        ``val`` and ``test`` (parts, 0.1 each), ``split_by`` (formula, structure or a key of the info), ``split_seed``,
        ``unlabelled`` (error or skip) and ``mixed_labels`` (whether labels of several kinds may be mixed).

    Raises
    ------
    ValueError
        Naming the structures: without a label, in two sets, or too few; or what differs between the labels.
    """
    inputs = {"structures": structures, "val": val, "test": test}
    sets = {name: each for name, each in inputs.items() if each is not None}
    key = None  # of stored nodes, which never change: the steps of a training all ask for the same
    if all(each.is_stored for each in sets.values()):
        uuids = tuple((name, each.uuid) for name, each in sets.items())
        key = (uuids, target, json.dumps({name: settings.get(name) for name in DATA}))
    data = None if key is None else _READ.get(key)
    if data is None:
        data = _gather(sets, target, settings)
    if key is not None:
        if len(_READ) >= _MAX_READ:
            _READ.clear()
        _READ[key] = data
    return data._replace(sets=list(sets.values()))


def _gather(sets: Mapping[str, StructureSetData], target: str, settings: Mapping[str, object]) -> TrainingData:
    ids: list[str] = []
    labels: list[float | None] = []
    groups: list[Hashable] = []
    of_set: list[str] = []
    schemes: list[dict[str, object] | None] = []
    seen: dict[bytes, tuple[str, str]] = {}
    for name, each in sets.items():
        for structure_id, atoms in zip(each.ids, each.iter_atoms(), strict=True):
            what = f"structure {structure_id!r} of {name}"
            label = named_label(atoms, target, what)
            if label is not None:
                schemes.append(scheme_of(atoms))
            _see(seen, atoms, name, structure_id)
            ids.append(structure_id)
            labels.append(label)
            of_set.append(name)
            groups.append(_group(atoms, len(ids), str(settings.get("split_by", "formula")), what))
    _check_ids(ids, of_set)
    if settings.get("unlabelled", "error") == "error":
        _check_labels(ids, labels, target)
    scheme = None if settings.get("mixed_labels", False) else merge_schemes(schemes)
    data = TrainingData(ids, labels, *_split(of_set, labels, groups, settings, sets), scheme, [])
    for part, name in (("train", "structures"), ("val", "val"), ("test", "test")):
        if name in sets and not data.count(part):
            raise ValueError(f"no structure of {name} has a label {target!r}")
    return data


def _split(
    of_set: list[str],
    labels: list[float | None],
    groups: list[Hashable],
    settings: Mapping[str, object],
    sets: Mapping[str, StructureSetData],
) -> tuple[Strings, By | None]:
    """The set's name of what was given apart; what is to be divided, divided."""
    split = np.array(["train" if name == "structures" else name for name in of_set], dtype="<U5")
    rows = [k for k, name in enumerate(of_set) if name == "structures" and labels[k] is not None]
    test = 0.0 if "test" in sets else cast("float", settings.get("test", 0.1))
    seed = cast("int", settings.get("split_seed", 0))
    if "val" not in sets:
        val = cast("float", settings.get("val", 0.1))
        split[rows], by = divide([groups[k] for k in rows], val=val, test=test, seed=seed)
        return split, by
    if test == 0.0:
        return split, None
    from cgcnn_ase.data.splits import group_split

    split[rows] = group_split([repr(groups[k]) for k in rows], val=0.0, test=test, seed=seed)
    return split, "group"


def _group(atoms: "Atoms", k: int, by: str, what: str) -> Hashable:
    if by == "structure":
        return k
    if by == "formula":
        from cgcnn_ase.structures.composition import composition_key

        return composition_key(atoms.numbers)
    if by not in atoms.info:
        raise ValueError(f"{what} has no {by!r} in its info to split by; allowed: formula, structure or a key of all")
    return str(atoms.info[by])


def _see(seen: dict[bytes, tuple[str, str]], atoms: "Atoms", name: str, structure_id: str) -> None:
    """Refuse a structure that is in two sets, under whatever id."""
    key = b"".join(a.tobytes() for a in (atoms.numbers, atoms.positions, atoms.cell.array, atoms.pbc))
    other, other_id = seen.setdefault(key, (name, structure_id))
    if other != name:
        raise ValueError(
            f"structure {structure_id!r} of {name} is the same as {other_id!r} of {other}; a structure to learn from "
            "cannot be held out as well"
        )


def _check_ids(ids: list[str], of_set: list[str]) -> None:
    first: dict[str, str] = {}
    twice = [f"{name} ({first[name]} and {set_name})" for name, set_name in zip(ids, of_set, strict=True)
             if first.setdefault(name, set_name) != set_name]  # fmt: skip
    if twice:
        raise ValueError(f"ids that occur in two sets: {listed(twice)}; give each structure to one of them")


def _check_labels(ids: list[str], labels: list[float | None], target: str) -> None:
    if missing := [name for name, label in zip(ids, labels, strict=True) if label is None]:
        raise ValueError(
            f"{len(missing)} of {len(ids)} structures have no label {target!r}: {listed(missing)}; leave them out, or "
            "set unlabelled: skip"
        )
