"""Parser of ``cgcnn.relax``: the retrieved folder -> relaxed structures and results, or an exit code in words."""

import csv
from collections.abc import Mapping, Sequence
from math import isfinite, nan
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from aiida.engine import ExitCode
from aiida.orm import ArrayData, Dict, StructureData, TrajectoryData

from aiida_plugin.calculations.relax import (
    RELAXED,
    TABLE,
    TRAJECTORY,
    RelaxCalculation,
    complete_parameters,
    ids_in_table,
)
from aiida_plugin.data.labels import NAMED, SCHEME
from aiida_plugin.data.structures import StructureSetData, as_set
from aiida_plugin.parsers.retrieved import RetrievedParser
from cgcnn_ase.core.environment import ENVIRONMENT

if TYPE_CHECKING:
    from ase import Atoms

# columns of the table, which are arrays of the results, too
NUMBERS = (
    "energy", "energy_std", "initial_energy", "steps", "max_force", "max_force_std", "volume_change", "domain_score"
)  # fmt: skip
TEXTS = ("formula", "scale", "in_domain_reason", "error")
FLAGS = ("converged", "in_domain")
_OF_MODEL = ("model", "model_sha256")
# those that a relaxed structure carries in its info, too
_INFO = (
    "energy_std", "scale", "steps", "converged", "max_force", "in_domain", "in_domain_reason", "domain_score",
    *_OF_MODEL,
)  # fmt: skip
# arrays of a structure that say what it is, rather than what was computed of it
_KEPT_ARRAYS = ("initial_magmoms", "initial_charges", "tags", "masses")
_TRUTHS = {"True": True, "False": False, "": None}


class RelaxedRow(NamedTuple):
    """One structure's row of the table, under its id in the set."""

    id: str
    values: dict[str, Any]  # None for what is missing

    @property
    def error(self) -> str | None:
        """Why there is no relaxed structure."""
        return self.values["error"] or None

    @property
    def is_converged(self) -> bool:
        """True if the forces are small enough."""
        return bool(self.values["converged"])


class RelaxParser(RetrievedParser):
    """Reads what was retrieved only; structures and table are retrieved for the time of parsing."""

    stderr = RelaxCalculation.stderr

    def parse(self, retrieved_temporary_folder: str | None = None, **_: object) -> ExitCode | None:
        """Make the outputs, or say by number why there are none."""
        folder = None if retrieved_temporary_folder is None else Path(retrieved_temporary_folder)
        inputs = self.node.inputs
        self.structures = as_set(inputs.structures)
        self.parameters = complete_parameters(inputs.parameters if "parameters" in inputs else None)
        if (ended := self.command_failure(len(self.structures), folder and folder / TABLE)) is not None:
            return ended
        if (ended := self.check_environment(ENVIRONMENT)) is not None:
            return ended
        if folder is None:
            return self.fail("ERROR_MISSING_OUTPUT", file=TABLE, reason="it is there only when the job ends")
        return self._make_outputs(folder)

    def _make_outputs(self, folder: Path) -> ExitCode | None:
        if not (folder / TABLE).is_file():
            return self.fail("ERROR_MISSING_OUTPUT", file=TABLE, reason=self.last_words())
        try:
            table = read_table(folder / TABLE)
        except ValueError as error:
            return self.fail("ERROR_CORRUPT_OUTPUT", file=TABLE, reason=error)
        known = dict(zip(ids_in_table(self.structures), self.structures.ids, strict=True))
        if missing := [id for name, id in known.items() if name not in table]:
            return self.fail("ERROR_INCOMPLETE_OUTPUT", n_missing=len(missing), n=len(known), ids=_listed(missing))
        rows = [RelaxedRow(id, table[name]) for name, id in known.items()]
        asked = self.node.inputs.model.sha256
        if others := sorted({str(row.values["model_sha256"]) for row in rows} - {asked}):
            return self.fail("ERROR_MODEL_MISMATCH", found=", ".join(others), asked=asked)
        done = [row for row in rows if row.error is None]
        if not done:
            self.out("results", results_node(rows))
            self.out("summary", Dict(_summary(rows)))
            return self.fail("ERROR_ALL_FAILED", reason=rows[0].error)
        if not (folder / RELAXED).is_file():
            return self.fail("ERROR_MISSING_OUTPUT", file=RELAXED, reason=self.last_words())
        try:
            atoms = self._relaxed(folder / RELAXED, done)
        except (ValueError, LookupError, TypeError, AttributeError, OSError) as error:
            return self.fail("ERROR_CORRUPT_OUTPUT", file=RELAXED, reason=error)
        if self.parameters["trajectory"] and (ended := self._trajectory(folder / TRAJECTORY)) is not None:
            return ended
        self._structures_out(done, atoms)
        self.out("results", results_node(rows))
        self.out("summary", Dict(_summary(rows)))
        return self._ended(rows)

    def _structures_out(self, done: Sequence[RelaxedRow], atoms: "Sequence[Atoms]") -> None:
        structures = self.node.inputs.structures
        if isinstance(structures, StructureData):
            relaxed = structures.clone()
            relaxed.reset_cell(atoms[0].cell.tolist())
            relaxed.reset_sites_positions(atoms[0].positions.tolist())
            self.out("relaxed", relaxed)
        else:
            self.out("relaxed", StructureSetData.from_ase(atoms, [row.id for row in done]))

    def _ended(self, rows: Sequence[RelaxedRow]) -> ExitCode | None:
        """Say which structures failed, or are not converged."""
        failed = [row for row in rows if row.error is not None]
        left = [row for row in rows if row.error is None and not row.is_converged] if self.parameters["steps"] else []
        if failed:
            words = f"; {len(left)} of them are not converged: {_listed([row.id for row in left])}" if left else ""
            return self.fail(
                "ERROR_SOME_FAILED", n_failed=len(failed), n=len(rows), ids=_listed([row.id for row in failed]),
                reason=failed[0].error, and_not_converged=words,
            )  # fmt: skip
        if left:
            return self.fail(
                "ERROR_NOT_CONVERGED", n_not=len(left), n=len(rows), ids=_listed([row.id for row in left]),
                fmax=self.parameters["fmax"], steps=self.parameters["steps"],
            )  # fmt: skip
        return None

    def _relaxed(self, file: Path, done: Sequence[RelaxedRow]) -> "list[Atoms]":
        """Put cells, positions and results of the file onto the structures that went in."""
        frames = _frames(file)
        if len(frames) != len(done):
            raise ValueError(f"it holds {len(frames)} structures, {TABLE} {len(done)}")
        return [
            self._placed(self.structures.atoms(row.id), frame, row) for row, frame in zip(done, frames, strict=True)
        ]

    def _placed(self, before: "Atoms", frame: "Atoms", row: RelaxedRow) -> "Atoms":
        """The structure where it ended: as it was, but for info and labels, which are those of the relaxation."""
        from ase import Atoms
        from ase.calculators.singlepoint import SinglePointCalculator

        if not np.array_equal(before.numbers, frame.numbers):
            raise ValueError(f"structure {row.id!r} has other atoms there than in the input")
        results = {} if frame.calc is None else dict(frame.calc.results)
        if not {"energy", "forces"} <= results.keys():
            raise ValueError(f"structure {row.id!r} has no energy and forces there")
        atoms = Atoms(
            numbers=before.numbers, positions=frame.positions, cell=frame.cell, pbc=before.pbc,
            celldisp=before.get_celldisp(), constraint=before.constraints,
        )  # fmt: skip
        for name in _KEPT_ARRAYS:
            if before.has(name):
                atoms.set_array(name, before.get_array(name))
        atoms.info = {name: row.values[name] for name in _INFO if row.values[name] not in (None, "")}
        atoms.info[SCHEME] = self._scheme(row)
        atoms.calc = SinglePointCalculator(atoms, **results)
        atoms.calc.name = "cgcnn_ase"
        return atoms

    def _scheme(self, row: RelaxedRow) -> dict[str, object]:
        """Label scheme: a machine-learned potential, and which."""
        return {
            "engine": "cgcnn_ase",
            "engine_version": self.node.inputs.package_version.value,
            "functional": "machine-learned",
            "relaxed": True,
            **{name: row.values[name] for name in _OF_MODEL},
        }

    def _trajectory(self, folder: Path) -> ExitCode | None:
        """Give the steps of the only structure as an output."""
        files = sorted(folder.glob("*.extxyz"))
        if len(files) != 1:
            reason = f"there are {len(files)} files in it" if files else self.last_words()
            return self.fail("ERROR_MISSING_OUTPUT", file=f"{TRAJECTORY}/*.extxyz", reason=reason)
        try:
            self.out("trajectory", trajectory_node(_frames(files[0])))
        except (ValueError, LookupError, TypeError, AttributeError, OSError, RuntimeError) as error:
            return self.fail("ERROR_CORRUPT_OUTPUT", file=f"{TRAJECTORY}/{files[0].name}", reason=error)
        return None


def read_table(file: Path) -> dict[str, dict[str, Any]]:
    """Read the table of ``cgcnn-ase relax`` by id; a ValueError says what is wrong with it."""
    needed = ("id", *NUMBERS, *TEXTS, *FLAGS, *_OF_MODEL)
    with file.open(newline="", encoding="utf-8") as lines:
        reader = csv.DictReader(lines)
        if lacking := [name for name in needed if name not in (reader.fieldnames or ())]:
            raise ValueError(f"it lacks the columns {', '.join(lacking)}")
        rows: dict[str, dict[str, Any]] = {}
        for k, row in enumerate(reader):
            if None in row.values():
                raise ValueError(f"row {k} is cut short")
            if row["id"] in rows:
                raise ValueError(f"the id {row['id']!r} is in it twice")
            rows[row["id"]] = _row_values(row, k)
    return rows


def _row_values(row: Mapping[str, str], k: int) -> dict[str, Any]:
    """Text, numbers and truth values of a row."""
    values: dict[str, Any] = {name: row[name] for name in (*TEXTS, *_OF_MODEL)}
    values |= {name: _number(row[name], f"{name} of row {k}") for name in NUMBERS}
    for name in FLAGS:
        if row[name] not in _TRUTHS:
            raise ValueError(f"{name} of row {k} is {row[name]!r}")
        values[name] = _TRUTHS[row[name]]
    if values["steps"] is not None:
        values["steps"] = int(values["steps"])
    if not values["error"]:
        for name in ("energy", "max_force", "steps", "converged"):
            if values[name] is None or not isfinite(values[name]):
                raise ValueError(f"row {k} has neither an error nor {name}")
    return values


def _number(text: str, what: str) -> float | None:
    try:
        return float(text) if text else None
    except ValueError:
        raise ValueError(f"{what} is {text!r}") from None


def results_node(rows: Sequence[RelaxedRow]) -> ArrayData:
    """Make a node of the table, an array for each column.

    Numbers are NaN where there is none; ``error`` says why. ``in_domain`` is 1, 0, or NaN where it is not known.
    """
    columns: dict[str, np.ndarray[Any, Any]] = {"id": np.array([row.id for row in rows], dtype=np.str_)}
    for name in (*NUMBERS, "in_domain"):
        numbers = [nan if row.values[name] is None else row.values[name] for row in rows]
        columns[name] = np.array(numbers, dtype=np.float64)
    columns["converged"] = np.array([row.is_converged for row in rows])
    for name in TEXTS:
        columns[name] = np.array([row.values[name] for row in rows], dtype=np.str_)
    return ArrayData(columns)


def _summary(rows: Sequence[RelaxedRow]) -> dict[str, object]:
    """Counts; what is not known is left out, as AiiDA stores no NaN."""
    known = [row.values["in_domain"] for row in rows if row.values["in_domain"] is not None]
    counts: dict[str, object] = {
        "n_structures": len(rows),
        "n_failed": sum(row.error is not None for row in rows),
        "n_converged": sum(row.is_converged for row in rows),
        **({"n_in_domain": sum(known)} if known else {}),
        **{name: rows[0].values[name] for name in _OF_MODEL},
    }
    if len(rows) > 1:
        return counts
    values = {name: rows[0].values[name] for name in (*NUMBERS, *FLAGS, *TEXTS)}
    return counts | {
        name: value
        for name, value in values.items()
        if value not in (None, "") and (not isinstance(value, float) or isfinite(value))
    }


def trajectory_node(frames: "Sequence[Atoms]") -> TrajectoryData:
    """Make a node of the steps: AiiDA's own arrays, and energies (eV), forces (eV/Å), stresses (eV/Å^3, Voigt)."""
    first = frames[0]
    node = TrajectoryData()
    node.set_trajectory(
        symbols=first.get_chemical_symbols(),
        positions=np.array([atoms.positions for atoms in frames]),
        stepids=np.arange(len(frames)),
        cells=np.array([atoms.cell.array for atoms in frames]),
        pbc=[bool(each) for each in first.pbc],
    )
    node.set_array("energies", np.array([atoms.get_potential_energy() for atoms in frames]))
    node.set_array("forces", np.array([atoms.get_forces(apply_constraint=False) for atoms in frames]))
    if all("stress" in atoms.calc.results for atoms in frames):
        node.set_array("stresses", np.array([atoms.get_stress(apply_constraint=False) for atoms in frames]))
    return node


def _frames(file: Path) -> "list[Atoms]":
    """All structures of an extxyz file."""
    from ase.io import read

    frames = read(file, ":", format="extxyz")
    if not frames:
        raise ValueError("it holds no structure")
    return list(frames)


def _listed(ids: Sequence[str]) -> str:
    return ", ".join(ids[:NAMED]) + (", ..." if len(ids) > NAMED else "")
