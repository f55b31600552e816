"""The configuration of an optimisation, checked, and the problem that it describes: space, structures, objectives."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, ConfigDict, Field, model_validator

from cgcnn_ase.core.settings import Positive, Settings, parse_settings
from cgcnn_ase.core.yaml_settings import read_yaml
from cgcnn_ase.optimization.acquisition import ACQUISITIONS
from cgcnn_ase.optimization.engine import ENGINES
from cgcnn_ase.optimization.objectives import ALIASES, OF_ENERGIES, OF_HULL, P_STABLE, WITHIN, GoalKind, Objective
from cgcnn_ase.optimization.oracles.base import ORACLES, Oracle, OracleError, OracleRecipe
from cgcnn_ase.optimization.oracles.calculators import CandidateRelaxer, beside
from cgcnn_ase.optimization.oracles.python_function import load_named
from cgcnn_ase.optimization.oracles.table import rounded
from cgcnn_ase.optimization.space.cathode_space import (
    DOPANT_CONTENT,
    SUPERCELL,
    VACANCIES,
    Repeats,
    cathode_space,
    cathode_structure,
)
from cgcnn_ase.optimization.space.search_space import Initial, SearchSpace
from cgcnn_ase.optimization.space.variables import Point
from cgcnn_ase.optimization.surrogates.base import SURROGATES

if TYPE_CHECKING:
    from ase import Atoms

Count = Annotated[int, Field(gt=0, strict=True)]
NotNegative = Annotated[int, Field(ge=0, strict=True)]
MakeStructure = Callable[[Point], "Atoms"]

# what of the configuration may change when a run is resumed: how much is spent, and how long is waited
RESUMABLE_SETTINGS = (
    "budget.evaluations", "oracle.timeout_s", "oracle.retries", "oracle.submit", "oracle.max_parallel",
)  # fmt: skip


class SpaceSettings(Settings):
    """The points there are, and their structures."""

    # ranges; with a host as in :func:`cgcnn_ase.optimization.space.cathode_space.cathode_space`
    variables: dict[str, object]
    host: str | None = None  # a layered cathode; without one there are no structures but those of `structure`
    supercell: Count | tuple[Count, Count, Count] | None = None  # repeats of the host's conventional cell
    li_removal: Literal["random", "ewald"] = "random"
    sum_to_one: list[str] = Field(default_factory=list)  # without a host: variables that add up to 1
    structure: str | None = None  # without a host: ``module:function`` or ``file.py:function`` from point to Atoms

    @model_validator(mode="after")
    def _one_way(self) -> "SpaceSettings":
        if self.host is not None and (self.sum_to_one or self.structure):
            raise ValueError("sum_to_one and structure are for spaces without a host: a cathode's contents add up to 1")
        if self.host is None and self.supercell is not None:
            raise ValueError("supercell is that of a host, and there is none")
        return self

    def build(self, folder: Path) -> tuple[SearchSpace, MakeStructure | None]:
        """Return the space, and the function from a point to its structure."""
        if self.host is None:
            space = SearchSpace.from_dict({"variables": self.variables, "sum_to_one": self.sum_to_one})
            return space, load_named(self.structure, folder, "space.structure") if self.structure else None
        cell: Repeats = self.supercell or SUPERCELL
        make = partial(cathode_structure, host=self.host, supercell=cell, li_removal=self.li_removal)
        return cathode_space(self.variables, host=self.host, supercell=cell), make


class ObjectiveSettings(Settings):
    """One objective."""

    name: str
    # ``max`` for a voltage and a probability of being stable, else ``min``; ``target`` where a target is given
    goal: GoalKind | None = None
    target: float | None = None
    model: str | None = None
    # of e_above_hull and p_stable: competing phases in a file or folder, and what counts as stable, eV/atom
    entries: str | None = None
    within: float | None = None

    @model_validator(mode="after")
    def _of_hull(self) -> "ObjectiveSettings":
        if (self.entries is not None or self.within is not None) and self.name not in OF_HULL:
            raise ValueError(f"entries and within are of {' and '.join(OF_HULL)}, not of {self.name}")
        return self

    @model_validator(mode="after")
    def _target(self) -> "ObjectiveSettings":
        if (self.goal == "target") != (self.target is not None) and self.goal is not None:
            raise ValueError("the goal `target` and a value for `target` go together")
        return self

    def objective(self, mixed: tuple[str, ...], folder: Path) -> Objective:
        """Return the objective in a space in which some variables are shares of the mixed metals."""
        name = ALIASES.get(self.name, self.name)
        goal: GoalKind = "target" if self.target is not None else "max" if name in ("voltage", P_STABLE) else "min"
        model = self.model
        if model is not None and (folder / model).exists():
            model = str((folder / model).resolve())
        entries = None if self.entries is None else str(folder / self.entries)
        within = WITHIN if self.within is None else self.within
        return Objective(name, self.goal or goal, self.target, model, mixed, entries, within)


class OracleSettings(Settings):
    """Who evaluates, and how failures are dealt with; all other names are the oracle's own options."""

    model_config = ConfigDict(extra="allow", frozen=True)
    __pydantic_extra__: dict[str, object]

    name: Annotated[str, AfterValidator(ORACLES.check)]
    timeout_s: Positive | None = None
    retries: NotNegative = 0

    def recipe(self, folder: Path) -> OracleRecipe:
        """Return the recipe of the oracle."""
        return OracleRecipe(self.name, dict(self.model_extra or {}), folder)


class CandidateRelaxation(Settings):
    """How a candidate is relaxed before the oracle, or the model of an objective, is asked about it."""

    model: str = "cathode-potential"  # a potential: pretrained name, model folder, or ``chgnet``
    fmax: Positive = 0.05  # largest force that may remain, eV/Å
    steps: Count = 500  # more are a failure
    fixed_cell: bool = False
    # a candidate with elements that the potential has not learned: relaxed nevertheless, or evaluated as it is built
    unknown_elements: Literal["relax", "keep"] = "relax"

    def build(self, folder: Path) -> CandidateRelaxer:
        """Return what relaxes; a ValueError if the model has no forces."""
        return CandidateRelaxer(
            beside(self.model, folder), fmax=self.fmax, max_steps=self.steps, with_cell=not self.fixed_cell,
            keeps_unknown=self.unknown_elements == "keep",
        )  # fmt: skip

    def describe(self) -> dict[str, object]:
        """Return plain values; runs of earlier versions, which relaxed all elements, are still resumed."""
        return self.model_dump(exclude={"unknown_elements"} if self.unknown_elements == "relax" else None)


# of the cells that a host is made into, where an objective is an energy and nothing else is said
DEFAULT_RELAXATION = CandidateRelaxation(unknown_elements="keep")
# oracles that do not compute energies from a structure
_NOT_OF_STRUCTURES = ("callable", "table")


class SurrogateSettings(Settings):
    """The model that predicts the points that were not evaluated."""

    kind: Annotated[str, AfterValidator(SURROGATES.check)] = "gp"
    # of ``network`` and ``stacked``: pretrained name or model folder, or one for each objective by name
    model: str | dict[str, str] | None = None


class AcquisitionConfig(Settings):
    """The measure by which a point is worth evaluating."""

    name: Annotated[str, AfterValidator(ACQUISITIONS.check)] = "ei"
    kappa: Annotated[float, Field(ge=0)] = 2.0  # of ``lcb``


class BudgetSettings(Settings):
    """The evaluations that are spent."""

    evaluations: Count  # points, those that fail too; labels that were given cost nothing
    initial: Count = 8  # of them before the surrogate decides
    batch: Count = 1  # points a round
    design: Initial = "sobol"  # how the initial points are spread


class OptimisationConfig(Settings):
    """All that decides an optimisation."""

    space: SpaceSettings
    objectives: Annotated[list[ObjectiveSettings], Field(min_length=1)]
    oracle: OracleSettings
    surrogate: SurrogateSettings = SurrogateSettings()
    acquisition: AcquisitionConfig = AcquisitionConfig()
    # what chooses the points after the initial ones: ``native``, or ``skopt`` (scikit-optimize)
    engine: Annotated[str, AfterValidator(ENGINES.check)] = "native"
    budget: BudgetSettings
    # before a candidate is evaluated; False: as it is built; None: :data:`DEFAULT_RELAXATION` where energies decide
    relax: CandidateRelaxation | Literal[False] | None = None
    labels: str | None = None  # CSV of values that are known already, with error bars
    seed: NotNegative = 0

    @model_validator(mode="before")
    @classmethod
    def _short_forms(cls, values: object) -> object:
        """Take a name alone for settings that hold nothing else."""
        if not isinstance(values, dict):
            return values
        result = dict(values)
        for name, key in (("oracle", "name"), ("surrogate", "kind"), ("acquisition", "name"), ("relax", "model")):
            if isinstance(result.get(name), str):
                result[name] = {key: result[name]}
        if isinstance(result.get("objectives"), str | dict):
            result["objectives"] = [result["objectives"]]
        if isinstance(result.get("objectives"), list):
            result["objectives"] = [{"name": one} if isinstance(one, str) else one for one in result["objectives"]]
        return result

    @model_validator(mode="after")
    def _together(self) -> "OptimisationConfig":
        names = [ALIASES.get(one.name, one.name) for one in self.objectives]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"objectives: {', '.join(twice)} is there twice")
        if self.surrogate.kind == "gp" and self.surrogate.model is not None:
            raise ValueError("surrogate.model is for the kinds network and stacked: gp has no model")
        if self.relax and self.space.host is None and self.space.structure is None:
            raise ValueError("relax is of structures, and the space makes none: give space.host or space.structure")
        return self

    @property
    def relaxation(self) -> CandidateRelaxation | None:
        """How candidates are relaxed; None where they are evaluated as they are built.

        By default cells of a host are, where an objective is an energy and the oracle neither relaxes by itself nor
        takes no energy from a structure: energies of cells as they are built mislead.
        """
        if self.relax is not None:
            return self.relax or None
        names = {ALIASES.get(one.name, one.name) for one in self.objectives}
        relaxes = (self.oracle.model_extra or {}).get("relax")
        if self.space.host is None or not names & OF_ENERGIES or relaxes or self.oracle.name in _NOT_OF_STRUCTURES:
            return None
        return DEFAULT_RELAXATION

    def as_dict(self, folder: Path) -> dict[str, object]:
        """Return plain values, complete, with the sha256 of the labels: two equal ones are the same run."""
        # earlier versions had no engine, no relaxation and no competing phases, and their runs are still resumed
        new = {"engine"} if self.engine == "native" else set()
        values: dict[str, Any] = self.model_dump(mode="json", exclude={"relax", *new})
        if self.relaxation is not None:
            values["relax"] = self.relaxation.describe()
        for one in values["objectives"]:
            for name in ("entries", "within"):
                if one[name] is None:
                    del one[name]
        if self.labels is not None:
            values["labels_sha256"] = sha256((folder / self.labels).read_bytes()).hexdigest()
        return values


def read_config(file: str | Path) -> OptimisationConfig:
    """Read the configuration in a YAML file; a ValueError says the first problem in one sentence."""
    values = read_yaml(Path(file))
    try:
        return parse_settings(OptimisationConfig, values)
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from error


@dataclass(frozen=True)
class Problem:
    """A search space, the structures of its points, and the objectives."""

    space: SearchSpace
    make_structure: MakeStructure | None  # None in a space without structures
    objectives: tuple[Objective, ...]
    candidates: list[Point] | None = None  # the only points that may be evaluated; None for the whole space
    relaxer: CandidateRelaxer | None = None  # relaxes structures before they are evaluated

    def structure(self, point: Point) -> "Atoms | None":
        """Return the structure of a point; an :class:`OracleError` says why there is none."""
        if self.make_structure is None:
            return None
        try:
            return self.make_structure(point)
        except Exception as error:  # it may be the user's own function, and the reason is recorded with the point
            raise OracleError(f"no structure: {type(error).__name__}: {error}") from error


def build_problem(config: OptimisationConfig, oracle: Oracle, folder: Path) -> Problem:
    """Build the problem that a configuration describes.

    An oracle with ``points(names)`` (a table) says which points there are; files are looked for in `folder`. There is a
    ValueError where a range is empty, or an objective cannot be computed in this space.
    """
    space, make_structure = config.space.build(folder)
    # with a host the shares that add up to one are those of the metals
    mixed = space.sum_to_one if config.space.host is not None else ()
    objectives = tuple(one.objective(mixed, folder) for one in config.objectives)
    for objective in objectives:
        _check_objective(objective, space)
    relaxation = config.relaxation
    relaxer = None if relaxation is None else relaxation.build(folder)
    return Problem(space, make_structure, objectives, _candidates(space, oracle), relaxer)


def _check_objective(objective: Objective, space: SearchSpace) -> None:
    """See that the cells it is computed from are points of the space, and its competing phases can be read."""
    if objective.name in OF_HULL and objective.entries is not None:
        _ = objective.hull
    if objective.model is not None:
        return
    if objective.name == "voltage":
        lithium = next((v for v in space.variables if v.name == VACANCIES), None)
        if lithium is None or lithium.whole[0] <= 0:
            raise ValueError(
                f"voltage: it is between all the lithium and less: {VACANCIES} must be a variable, and its lowest "
                "value above 0"
            )
    if objective.name == "mixing_energy_per_atom" and (not objective.mixed or DOPANT_CONTENT in objective.mixed):
        raise ValueError(
            "mixing_energy_per_atom (stability): it needs a host whose metals are mixed, without a dopant, as its end "
            "members are the cells of one metal"
        )


def _candidates(space: SearchSpace, oracle: Oracle) -> list[Point] | None:
    """Return the points of the space that a table has."""
    points = getattr(oracle, "points", None)
    if points is None:
        return None
    near = [(point, space.snap(point)) for point in points(space.names)]
    inside = [to for point, to in near if all(rounded(point[name]) == rounded(to[name]) for name in space.names)]
    if not inside:
        raise ValueError(f"{oracle.describe()['what']} has no point of the space")
    return inside
