"""Plan of a label run before anything is computed: jobs, k-points, pseudopotentials, U, and what stands in the way."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, cast

from aiida_plugin.calculations.functions.labels import reference_error, reference_structure, structure_with_kinds
from aiida_plugin.data.structures import as_set
from aiida_plugin.engines.base import CommonSettings, Run
from aiida_plugin.engines.base import engine as engine_of
from aiida_plugin.engines.labels import structure_error

if TYPE_CHECKING:
    from aiida.engine import ProcessBuilder
    from aiida.orm import AbstractCode, StructureData
    from ase import Atoms

REFERENCE = "reference_"  # of the label of an element's run


@dataclass(frozen=True)
class PlannedRun:
    """One run of the engine."""

    name: str  # id of the structure, or ``reference_`` and the element
    n_atoms: int
    kpoints: list[int] | None  # mesh; None where there is none of the settings' distance
    hubbard_u: dict[str, float]  # eV by kind
    pseudopotentials: dict[str, str]  # by element; empty where the engine brings its own
    conflict: str | None  # why it cannot be run; None if it can

    def describe(self) -> str:
        """Put it into a line."""
        if self.conflict is not None:
            return f"{self.name}: {self.conflict}"
        mesh = "x".join(map(str, self.kpoints or ()))
        parts = [f"{self.n_atoms} atoms", f"k-points {mesh}"]
        parts += [f"U({kind}) {u:g} eV" for kind, u in self.hubbard_u.items()]
        parts += [f"{element}: {name}" for element, name in self.pseudopotentials.items()]
        return f"{self.name}: {', '.join(parts)}"


def label_plan(builder: "ProcessBuilder") -> list[PlannedRun]:
    """Plan the runs that a filled builder of ``cgcnn.label`` would start, the elements' too; nothing is stored or run.

    Of one of ``cgcnn.learn_relax``, the first run of each structure. The runs without a ``conflict`` are those that
    would be submitted.
    """
    of_engine = builder.get("label", builder)
    settings: dict[str, Any] = of_engine["settings"].get_dict()
    structures = as_set(builder["structures"])
    rows = structures.rows_of(builder["indices"]) if "indices" in builder else range(len(structures))
    plan = Planner(of_engine["engine"].value, of_engine["code"], settings)
    named = {structures.ids[row]: structures.atoms(row) for row in rows}
    runs = [plan.run(name, atoms) for name, atoms in named.items()]
    if "references" in builder and builder["references"].value:
        known = builder["reference_energies"]["energies"] if "reference_energies" in builder else {}
        good = [atoms for name, atoms in named.items() if structure_error(atoms, settings) is None]
        runs += [plan.reference(element) for element in elements_of(good, known)]
    return runs


def check_submission(
    engine: str, code: "AbstractCode", structures: "Iterable[Atoms]", settings: Mapping[str, Any], *, n: int = 20
) -> None:
    """Raise a ValueError if none of the first `n` structures can be given to the engine; it says why not.

    A structure that is bad alone costs no other: it is found later, and listed.
    """
    plan = Planner(engine, code, settings)
    runs = [plan.run(str(k), atoms) for k, atoms in enumerate(islice(structures, n))]
    if runs and all(run.conflict for run in runs):
        raise ValueError(f"no structure can be labelled: {runs[0].conflict}")


def elements_of(structures: "Iterable[Atoms]", known: Iterable[str]) -> list[str]:
    """Elements of structures whose energies are not known."""
    return sorted({symbol for atoms in structures for symbol in atoms.symbols} - set(known))


def starting_moments(
    structure: "StructureData", carried: Mapping[str, float] | None, settings: Mapping[str, Any], *, is_reference: bool
) -> dict[str, float]:
    """Moments that a run starts from, μB by kind: those it carries, else by element; none without spin."""
    if not settings["spin"]:
        return {}
    if carried:
        return dict(carried)
    by_element = {} if is_reference else settings["initial_moments"]
    return {kind.name: float(by_element.get(kind.symbol, 0.0)) for kind in structure.kinds}


class Planner:
    """Plans of single runs of an engine, by its own checks."""

    def __init__(self, engine: str, code: "AbstractCode", settings: Mapping[str, Any]) -> None:
        self.engine, self.code, self.settings = engine_of(engine), code, settings

    def run(self, name: str, atoms: "Atoms", *, is_reference: bool = False) -> PlannedRun:
        """Plan the run of a structure."""
        if reason := structure_error(atoms, self.settings):
            return PlannedRun(name, len(atoms), None, {}, {}, reason)
        structure, moments = structure_with_kinds(atoms)
        start = starting_moments(structure, moments, self.settings, is_reference=is_reference)
        run: Run[Any] = Run(structure, self.code, cast("CommonSettings", self.settings), start)
        if reason := self.engine.conflict(run):
            return PlannedRun(name, len(atoms), None, {}, {}, reason)
        mesh = run.mesh.get_kpoints_mesh()[0]
        return PlannedRun(name, len(atoms), mesh, run.hubbard_u, self.engine.pseudopotentials(run), None)

    def reference(self, element: str) -> PlannedRun:
        """Plan the run of an element."""
        if reason := reference_error(element):
            return PlannedRun(f"{REFERENCE}{element}", 0, None, {}, {}, reason)
        return self.run(f"{REFERENCE}{element}", reference_structure(element), is_reference=True)
