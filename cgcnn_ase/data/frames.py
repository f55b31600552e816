"""Frames: structures with energy, forces and stress, as potentials learn them, and what may be wrong with them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cgcnn_ase.core.arrays import Bools, Floats, Ints, Strings
from cgcnn_ase.core.elements import MAX_NUMBER
from cgcnn_ase.core.errors import DatasetError
from cgcnn_ase.data.calculations import holds_calculations, read_calculations
from cgcnn_ase.data.dataset import read_packed, read_properties
from cgcnn_ase.graphs.crystal_graph import Geometry, geometry
from cgcnn_ase.structures.composition import composition_key
from cgcnn_ase.structures.inputs import as_atoms

if TYPE_CHECKING:
    from ase import Atoms

# eV, of the ridge that decides between elements which always come together
_RIDGE = 1e-6
# forces and distances from element energies that no frame is learned from, eV/Å and eV/atom
MAX_FORCE, MAX_ENERGY = 40.0, 10.0
# a stress as large as this, eV/Å^3 (800 GPa), in the middle frame is one in another unit
_ABSURD_STRESS = 5.0
# energies per atom are told from those per cell where the one explains so much more than the other
_TELLS = 0.5
_NAMED = 5
# steps of reweighted least squares, and residuals that count as none, eV/atom
_REWEIGHTED, _SMALL = 30, 0.01
SCALE = "uncorrected"


@dataclass(frozen=True, eq=False)
class Frames:
    """Labelled structures, in ASE's units and signs."""

    ids: Strings
    structures: Sequence[Geometry]
    energies: Floats  # (N,) eV of each cell
    forces: list[Floats]  # (n, 3) eV/Å each
    stress: Floats  # (N, 3, 3) eV/Å^3; NaN where there is none
    split: Strings  # train, val or test; empty where the source has none
    scale: str = SCALE  # of the energies

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, rows: Ints) -> "Frames":
        """Some of them, in this order."""
        return replace(
            self,
            ids=self.ids[rows],
            structures=[self.structures[k] for k in rows.tolist()],
            energies=self.energies[rows],
            forces=[self.forces[k] for k in rows.tolist()],
            stress=self.stress[rows],
            split=self.split[rows],
        )

    def of_split(self, name: str) -> "Frames":
        """Those of one split."""
        return self.take(np.flatnonzero(self.split == name))

    @cached_property
    def n_atoms(self) -> Ints:
        """Atoms of each frame, (N,)."""
        return np.array([len(shape.numbers) for shape in self.structures], dtype=np.int64)

    @cached_property
    def counts(self) -> Floats:
        """Atoms of each element, (N, 101)."""
        return np.stack([np.bincount(s.numbers, minlength=MAX_NUMBER + 1) for s in self.structures]).astype(float)


def read_frames(source: "str | Path | Sequence[Atoms]") -> Frames:
    """Read a packed folder, a file that ASE writes (extxyz, trajectory, database), DFT outputs, or labelled atoms.

    A packed folder has ``forces`` and ``stress`` in ``structures.npz`` and a column ``energy`` (eV per cell).

    Raises
    ------
    DatasetError
        If labels are missing, do not fit their structures, or look like another unit; names what is wrong.
    """
    path = Path(source) if isinstance(source, str | Path) else None
    if path is not None and (path / "structures.npz").is_file():
        frames = _packed(path)
    elif path is not None and holds_calculations(path):
        table = read_calculations(path)
        table.warn(path)
        calculations = table.calculations
        frames = _labelled([each.id for each in calculations], [each.atoms for each in calculations])
    else:
        structures = [as_atoms(each) for each in _sequence(source)]
        frames = _labelled([str(k) for k in range(len(structures))], structures)
    if not len(frames):
        raise DatasetError(f"{path or '<memory>'}: no frames")
    check_units(frames, str(path or "<memory>"))
    return frames


def _packed(folder: Path) -> Frames:
    ids, structures = read_packed(folder)
    table, file = read_properties(folder)
    with np.load(folder / "structures.npz") as arrays:
        missing = {"forces", "stress"} - set(arrays.files)
        if missing:
            raise DatasetError(f"{folder / 'structures.npz'}: no {' and no '.join(sorted(missing))}; frames need them")
        forces, stress = arrays["forces"].astype(np.float64), arrays["stress"].astype(np.float64)
    n_atoms = np.array([len(shape.numbers) for shape in structures])
    if forces.shape != (n_atoms.sum(), 3) or stress.shape != (len(ids), 3, 3):
        raise DatasetError(
            f"{folder / 'structures.npz'}: forces {forces.shape} and stress {stress.shape} are not those of "
            f"{len(ids)} structures with {n_atoms.sum()} atoms"
        )
    if "energy" not in table:
        raise DatasetError(f"{file}: no column energy (eV per cell)")
    scales = sorted(set(table["scale"])) if "scale" in table else [SCALE]
    if len(scales) > 1:
        raise DatasetError(f"{file}: energies on several scales ({', '.join(scales)}) never mix; make a set of each")
    split = table["split"].to_numpy(dtype=str) if "split" in table else np.full(len(ids), "")
    by_frame = np.split(forces, np.cumsum(n_atoms)[:-1])
    energies = table["energy"].to_numpy(dtype=float)
    return Frames(ids, structures, energies, by_frame, stress, split, str(scales[0]))


def _sequence(source: object) -> "Sequence[Atoms]":
    if isinstance(source, str | Path):
        raise DatasetError(
            f"{source}: neither a packed folder with forces nor finished calculations; allowed are structures.npz with "
            "forces and stress, files that ASE writes (.extxyz, .traj, .db) and outputs of DFT programs"
        )
    return source if isinstance(source, Sequence) else list(source)  # type: ignore[call-overload]


def _labelled(ids: Sequence[str], structures: "Sequence[Atoms]") -> Frames:
    """Frames of structures whose calculators hold the labels."""
    from ase.stress import voigt_6_to_full_3x3_stress

    results = [{} if atoms.calc is None else atoms.calc.results for atoms in structures]
    for name in ("energy", "forces"):
        without = [each for each, result in zip(ids, results, strict=True) if result.get(name) is None]
        if without:
            raise DatasetError(
                f"{len(without)} of {len(ids)} frames have no {name}: {_listed(without)}; a potential learns from "
                "frames with energy and forces, where ASE's readers and writers keep them"
            )
    stress = np.full((len(ids), 3, 3), np.nan)
    for k, (atoms, each) in enumerate(zip(structures, results, strict=True)):
        shape = np.shape(each["forces"])
        if shape != (len(atoms), 3):
            raise DatasetError(f"{ids[k]}: forces of the shape {shape} for {len(atoms)} atoms")
        if each.get("stress") is not None and atoms.pbc.all():
            full = np.asarray(each["stress"], dtype=float)
            stress[k] = voigt_6_to_full_3x3_stress(full) if full.shape == (6,) else full.reshape(3, 3)
    return Frames(
        np.array(ids),
        [geometry(atoms) for atoms in structures],
        np.array([float(each["energy"]) for each in results]),
        [np.asarray(each["forces"], dtype=float) for each in results],
        stress,
        np.array([str(atoms.info.get("split", "")) for atoms in structures]),
    )


def check_units(frames: Frames, source: str) -> None:
    """Raise a DatasetError where energies look like eV/atom, or the stress like GPa or kbar or of the other sign."""
    bad = [str(name) for name, energy in zip(frames.ids, frames.energies, strict=True) if not np.isfinite(energy)]
    bad += [str(name) for name, each in zip(frames.ids, frames.forces, strict=True) if not np.isfinite(each).all()]
    if bad:
        raise DatasetError(f"{source}: energy or forces of {_listed(bad)} are not finite")
    if np.ptp(frames.n_atoms) > 0 and len(frames) >= 2 * (frames.counts.any(axis=0).sum() + 1):
        as_cells = _scatter(frames.counts, frames.energies / frames.n_atoms, frames.n_atoms)
        as_atoms = _scatter(frames.counts, frames.energies, frames.n_atoms)
        if as_atoms < _TELLS * as_cells:
            raise DatasetError(
                f"{source}: the energies look like eV/atom (one energy for each element leaves {as_atoms:.2g} eV/atom "
                f"then, {as_cells:.2g} if they are of cells); frames need eV per cell"
            )
    sizes = np.abs(frames.stress[np.isfinite(frames.stress).all(axis=(1, 2))])
    if len(sizes) and float(np.median(sizes.max(axis=(1, 2)))) > _ABSURD_STRESS:
        raise DatasetError(
            f"{source}: half of the frames have a stress above {_ABSURD_STRESS:g} eV/Å^3 (800 GPa), as if it were in "
            "GPa or kbar; frames need eV/Å^3 (1 GPa is 0.00624, 1 kbar 0.000624)"
        )
    slope = _work_of_strain(frames)
    if slope is not None and not 0.3 < slope < 3.0:
        raise DatasetError(
            f"{source}: where only the cell differs between frames, the energy changes by {slope:.3g} times the work "
            "of the stress, not by 1: its sign (ASE's is positive under tension) or its unit (eV/Å^3) is another"
        )


def _scatter(counts: Floats, per_atom: Floats, n_atoms: Ints) -> float:
    """Root mean square of what one energy for each element leaves of energies per atom."""
    there = np.flatnonzero(counts.any(axis=0))
    x = (counts / n_atoms[:, None])[:, there]
    return float(np.sqrt(np.mean((per_atom - x @ np.linalg.lstsq(x, per_atom, rcond=None)[0]) ** 2)))


def _work_of_strain(frames: Frames) -> float | None:
    """Energy over work of the stress of pairs of frames that differ in their cells alone; None without such pairs."""
    groups: dict[bytes, list[int]] = {}
    for k, shape in enumerate(frames.structures):
        if np.isfinite(frames.stress[k]).all():
            scaled = np.linalg.solve(shape.cell.T, shape.positions.T).T
            scaled = (scaled - scaled[0] + 0.25) % 1.0
            groups.setdefault(shape.numbers.tobytes() + np.round(scaled, 3).tobytes(), []).append(k)
    energy, work = [], []
    for rows in groups.values():
        for i, j in pairwise(rows):
            strain = np.linalg.solve(frames.structures[i].cell, frames.structures[j].cell) - np.eye(3)
            size = float(np.abs(strain).max())
            if 1e-4 < size < 0.03:
                volumes = [abs(float(np.linalg.det(frames.structures[k].cell))) for k in (i, j)]
                mean = 0.5 * (volumes[0] * frames.stress[i] + volumes[1] * frames.stress[j])
                energy.append(frames.energies[j] - frames.energies[i])
                work.append(float((mean * strain).sum()))
    squares = float(np.square(work).sum())
    return float(np.dot(energy, work)) / squares if len(work) >= 3 and squares > 0 else None


def without_absurd(
    frames: Frames, *, max_force: float = MAX_FORCE, max_energy: float = MAX_ENERGY
) -> tuple[Frames, dict[str, int]]:
    """Leave out frames with forces above 40 eV/Å or energies 10 eV/atom off one energy for each element.

    Those of the test split stay: what is measured is not chosen by its labels. Also returns how many were left out, by
    reason.
    """
    forces = np.array([float(np.abs(each).max(initial=0.0)) for each in frames.forces])
    x = frames.counts / frames.n_atoms[:, None]
    per_atom = frames.energies / frames.n_atoms
    off, weights = np.zeros(len(frames)), np.ones(len(frames))
    for _ in range(_REWEIGHTED):  # least absolute deviations, which few wild frames do not move
        solved = np.linalg.lstsq(x * weights[:, None], per_atom * weights, rcond=None)[0]
        off = np.abs(per_atom - x @ solved)
        weights = 1.0 / np.sqrt(np.maximum(off, _SMALL))
    learned = frames.split != "test"
    reasons: dict[str, Bools] = {
        f"a force above {max_force:g} eV/Å": learned & (forces > max_force),
        f"an energy {max_energy:g} eV/atom off": learned & (off > max_energy) & (forces <= max_force),
    }
    keep = ~np.logical_or.reduce(list(reasons.values()))
    dropped = {reason: int(which.sum()) for reason, which in reasons.items() if which.any()}
    return (frames if keep.all() else frames.take(np.flatnonzero(keep))), dropped


def with_splits(frames: Frames, *, val: float = 0.1, test: float = 0.1, seed: int = 0) -> Frames:
    """Divide frames that come without splits by reduced formula; others stay as they are."""
    if (frames.split != "").any():
        return frames
    keys = np.unique([composition_key(shape.numbers) for shape in frames.structures], return_inverse=True)[1]
    order = np.random.default_rng(seed).permutation(keys.max() + 1)
    if len(order) < 3:  # one host: its frames themselves are divided
        keys, order = np.arange(len(frames)), np.random.default_rng(seed).permutation(len(frames))
    rank = np.empty(len(order))
    rank[order] = (np.arange(len(order)) + 0.5) / len(order)
    at = rank[keys]
    split = np.where(at < test, "test", np.where(at < test + val, "val", "train"))
    return replace(frames, split=split)


def join(*parts: Frames) -> Frames:
    """Frames of several sets, one after the other; a ValueError if their energies are on different scales."""
    scales = sorted({part.scale for part in parts})
    if len(scales) > 1:
        raise ValueError(f"energies on the scales {' and '.join(scales)} never mix: frames of one scale are needed")
    return Frames(
        np.concatenate([part.ids for part in parts]),
        [shape for part in parts for shape in part.structures],
        np.concatenate([part.energies for part in parts]),
        [each for part in parts for each in part.forces],
        np.concatenate([part.stress for part in parts]),
        np.concatenate([part.split for part in parts]),
        scales[0],
    )


def element_energies(frames: Frames) -> Floats:
    """Energies of the elements, eV (101,), whose sums are nearest to the energies of the frames; 0 of those not there.

    Least squares of energies per atom, so that large cells do not count for more.
    """
    x, y = frames.counts / frames.n_atoms[:, None], frames.energies / frames.n_atoms
    there = np.flatnonzero(frames.counts.any(axis=0))
    a = x[:, there]
    solved = np.linalg.solve(a.T @ a + _RIDGE * np.eye(there.size), a.T @ y)
    result = np.zeros(MAX_NUMBER + 1)
    result[there] = solved
    return result


def _listed(names: Sequence[str]) -> str:
    """The first few of some names."""
    return ", ".join(names[:_NAMED]) + (f" and {len(names) - _NAMED} more" if len(names) > _NAMED else "")
