"""Potentials against DFT frames: energies after one offset for each element, forces, and what our own std is worth."""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from _report import Table
from ase import Atoms
from ase.calculators.calculator import Calculator

from cgcnn_ase.core.arrays import Bools, Floats, Strings
from cgcnn_ase.core.elements import MAX_NUMBER
from cgcnn_ase.core.progress import with_progress
from cgcnn_ase.data.dataset import read_properties
from cgcnn_ase.data.frames import Frames, read_frames
from cgcnn_ase.models.crystal_model import CrystalModel
from cgcnn_ase.potential.evaluation import FrameEvaluation, evaluate_frames
from cgcnn_ase.uncertainty.metrics import spearman

# of the squares of the offsets, (eV)^2, in frames: what decides of an element that few frames hold
_RIDGE = 1e-3
# steps of reweighted least squares, and residuals beyond so many robust standard deviations count linearly
_REWEIGHTED, _CUT = 20, 1.345
ALL = "all"


@dataclass(frozen=True, eq=False)
class Results:
    """What a potential says of frames; NaN where it failed."""

    energies: Floats  # (N,) eV/atom
    forces: list[Floats]  # (n, 3) eV/Å each
    failed: dict[str, str]  # error by id


def element_offsets(counts: Floats, errors: Floats) -> Floats:
    """Offsets of the elements, (101,) eV, whose mean over a frame's atoms is nearest to its error (N,) in eV/atom.

    Huber's robust least squares with a small ridge towards 0. Frames whose error is NaN are left out.
    """
    known = np.isfinite(errors)
    x, y = (counts / counts.sum(axis=1, keepdims=True))[known], errors[known]
    weights, offsets = np.ones(len(y)), np.zeros(MAX_NUMBER + 1)
    for _ in range(_REWEIGHTED):
        offsets = np.linalg.solve(x.T @ (x * weights[:, None]) + _RIDGE * np.eye(x.shape[1]), x.T @ (weights * y))
        residual = np.abs(y - x @ offsets)
        cut = max(_CUT * 1.4826 * float(np.median(residual)), 1e-6)
        weights = np.minimum(1.0, cut / np.maximum(residual, 1e-12))
    return offsets


def peer_results(
    name: str, load: Callable[[], Calculator], frames: Frames, folder: Path, cache: Path | None
) -> Results:
    """Results of a calculator, which is loaded where the cache lacks a frame; each is added to the cache at once."""
    known = _cached(name, folder, cache)
    missing = [k for k, each in enumerate(frames.ids) if str(each) not in known]
    calculator = load() if missing else None
    for k in with_progress(missing, name, total=len(missing)):
        assert calculator is not None
        row = {"peer": name, "id": str(frames.ids[k])} | _evaluated(frames, k, calculator)
        known[str(frames.ids[k])] = row
        if cache is not None:
            with cache.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
    rows = [known[str(each)] for each in frames.ids]
    nothing = [np.full((n, 3), np.nan) for n in frames.n_atoms.tolist()]
    return Results(
        np.array([float(row.get("energy", np.nan)) for row in rows]) / frames.n_atoms,
        [np.array(row["forces"]) if "forces" in row else empty for row, empty in zip(rows, nothing, strict=True)],
        {str(row["id"]): str(row["error"]) for row in rows if "error" in row},
    )


def _evaluated(frames: Frames, k: int, calculator: Calculator) -> dict[str, object]:
    shape = frames.structures[k]
    atoms = Atoms(shape.numbers, shape.positions, cell=shape.cell, pbc=True)
    atoms.calc = calculator
    try:
        energy, forces = float(atoms.get_potential_energy()), np.asarray(atoms.get_forces(), dtype=float)
    except Exception as error:  # whatever stops a peer at a frame is told, and the others go on
        calculator.reset()
        return {"error": f"{type(error).__name__}: {error}"}
    if not (np.isfinite(energy) and np.isfinite(forces).all()):
        return {"error": "energy or forces are not finite"}
    return {"energy": energy, "forces": np.round(forces, 5).tolist()}


def _cached(name: str, folder: Path, cache: Path | None) -> dict[str, dict[str, object]]:
    """Rows of a peer by id; SystemExit where the cache is of other frames."""
    if cache is None:
        return {}
    digest = hashlib.sha256((folder / "structures.npz").read_bytes()).hexdigest()
    if not cache.exists():
        cache.write_text(json.dumps({"structures": digest}) + "\n", encoding="utf-8")
    first, *lines = cache.read_text(encoding="utf-8").splitlines()
    if json.loads(first) != {"structures": digest}:
        raise SystemExit(f"{cache}: results of other frames than those of {folder}; name another file")
    rows = [json.loads(line) for line in lines]
    return {row["id"]: row for row in rows if row["peer"] == name}


def dft_tables(
    model: CrystalModel, peers: Mapping[str, Callable[[], Calculator]], folder: Path, split: str, cache: Path | None
) -> list[Table]:
    """Errors by set of a model and of its peers, and what the model's std, interval and domain are worth."""
    frames = read_frames(folder)
    parts = {name: frames.of_split(name) for name in dict.fromkeys(("val", split))}
    table = read_properties(folder)[0]
    sets = table["set"].to_numpy(dtype=str)[frames.split == split]
    evaluations = {name: evaluate_frames(model, part) for name, part in parts.items()}
    results = {model.name: {name: _own(parts[name], each) for name, each in evaluations.items()}}
    for peer, load in peers.items():
        results[peer] = {name: peer_results(peer, load, part, folder, cache) for name, part in parts.items()}
    errors = _errors(parts, sets, split, results)
    errors.notes.append(f"weights {model.sha256}")
    return [errors, _uncertainty(evaluations[split], parts[split], sets, split)]


def _own(frames: Frames, evaluation: FrameEvaluation) -> Results:
    ends = np.cumsum(frames.n_atoms)[:-1]
    forces = np.concatenate(frames.forces) + evaluation.force_errors
    return Results(evaluation.outputs.values.double().numpy().mean(axis=0), np.split(forces, ends), {})


def _errors(
    parts: Mapping[str, Frames], sets: Strings, split: str, results: Mapping[str, Mapping[str, Results]]
) -> Table:
    table = Table(
        f"DFT frames ({split}): mean absolute errors after one offset for each element",
        ("set", "frames", "atoms", "potential", "energy, meV/atom", "forces, eV/Å", "failed"),
    )
    frames, val = parts[split], parts["val"]
    of_energy, of_forces = {}, {}
    for name, each in results.items():
        offsets = element_offsets(val.counts, each["val"].energies - val.energies / val.n_atoms)
        shift = frames.counts @ offsets / frames.n_atoms
        of_energy[name] = np.abs(each[split].energies - frames.energies / frames.n_atoms - shift)
        of_forces[name] = [np.abs(a - b) for a, b in zip(each[split].forces, frames.forces, strict=True)]
    for kind, rows in _by_set(sets):
        for name, each in results.items():
            failed = ~np.isfinite(each[split].energies)
            good = rows & ~failed
            forces = [of_forces[name][k] for k in np.flatnonzero(good).tolist()]
            table.rows.append((
                kind, int(rows.sum()), int(frames.n_atoms[rows].sum()), name,
                1000 * float(of_energy[name][good].mean()) if good.any() else None,
                float(np.concatenate(forces).mean()) if forces else None,
                int((rows & failed).sum()),
            ))  # fmt: skip
    table.notes.append(
        f"offsets: of {len(val)} frames of val, all sets together, for each potential by the same robust fit"
        + ("; these are the frames of this table, so that the offsets flatter all" if split == "val" else "")
    )
    unknown = frames.counts.any(axis=0) & ~val.counts.any(axis=0)
    if unknown.any():
        table.notes.append(
            f"{int(frames.counts[:, unknown].any(axis=1).sum())} frames hold an element without an offset"
        )
    for name, each in results.items():
        for k, error in each[split].failed.items():
            table.notes.append(f"{name} fails on {k}: {error}")
    return table


def _uncertainty(evaluation: FrameEvaluation, frames: Frames, sets: Strings, split: str) -> Table:
    """Of our own model, without offsets."""
    table = Table(
        f"DFT frames ({split}): uncertainty of ours, without offsets",
        (
            "set", "frames", "energy, meV/atom", "90 % interval holds", "out of domain", "energy, out, meV/atom",
            "Spearman, energy", "Spearman, forces",
        ),
    )  # fmt: skip
    p, errors = evaluation.prediction, np.abs(evaluation.energy_errors)
    size = np.sqrt((evaluation.force_errors**2).mean(axis=1))
    of_atom = np.repeat(np.arange(len(frames)), frames.n_atoms)
    covered = None
    if p.lower is not None and p.upper is not None:
        covered = (p.lower <= evaluation.energies) & (evaluation.energies <= p.upper)
    out = None if p.domain is None else np.array([not each.in_domain for each in p.domain])
    for kind, rows in _by_set(sets):
        atoms = rows[of_atom]
        outside = None if out is None or not (out & rows).any() else 1000 * float(errors[out & rows].mean())
        table.rows.append((
            kind, int(rows.sum()), 1000 * float(errors[rows].mean()),
            None if covered is None else float(covered[rows].mean()),
            None if out is None else float(out[rows].mean()), outside,
            None if p.std is None else spearman(p.std[rows], errors[rows]),
            spearman(evaluation.forces_std[atoms], size[atoms]),
        ))  # fmt: skip
    table.notes.append("interval, std and domain were fitted on val")
    return table


def _by_set(sets: Strings) -> list[tuple[str, Bools]]:
    return [*((str(name), sets == name) for name in dict.fromkeys(sets)), (ALL, np.ones(len(sets), dtype=bool))]
