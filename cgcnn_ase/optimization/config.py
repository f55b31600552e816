"""The configuration of an optimisation: what stands in the YAML file, checked, with messages in words."""

from hashlib import sha256
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, field_validator, model_validator

from cgcnn_ase.core.settings import Positive, Settings, parse_settings, unknown_name
from cgcnn_ase.optimization.acquisition import Acquisition
from cgcnn_ase.optimization.objectives import ALIASES, GoalKind, Objective
from cgcnn_ase.optimization.optimizer import Initial
from cgcnn_ase.optimization.oracles.registry import OracleRecipe, oracle_names
from cgcnn_ase.optimization.surrogates.graph_network import SurrogateName

Count = Annotated[int, Field(gt=0, strict=True)]
NotNegative = Annotated[int, Field(ge=0, strict=True)]

#: what of the configuration may change when a run is resumed: how much is spent, and how long is waited
RESUMABLE_SETTINGS = (
    "budget.evaluations",
    "oracle.timeout_s",
    "oracle.retries",
    "oracle.submit",
    "oracle.max_parallel",
)


class SpaceSettings(Settings):
    """Which points there are, and what their structures are."""

    variables: dict[
        str, Any
    ]  #: ranges; with a host as in :func:`cgcnn_ase.optimization.space.cathode_space.cathode_space`
    host: str | None = None  #: a layered cathode; without one there are no structures but those of `structure`
    supercell: Count | tuple[Count, Count, Count] | None = None  #: repeats of the host's conventional cell
    li_removal: Literal["random", "ewald"] = "random"
    sum_to_one: list[str] = Field(default_factory=list)  #: without a host: variables that add up to 1
    structure: str | None = None  #: without a host: ``module:function`` or ``file.py:function`` from point to Atoms

    @model_validator(mode="after")
    def _one_way(self) -> "SpaceSettings":
        if self.host is not None and (self.sum_to_one or self.structure):
            raise ValueError("sum_to_one and structure are for spaces without a host: a cathode's contents add up to 1")
        if self.host is None and self.supercell is not None:
            raise ValueError("supercell is that of a host, and there is none")
        return self


class ObjectiveSettings(Settings):
    """One objective."""

    name: str
    goal: GoalKind | None = None  #: ``max`` for a voltage, else ``min``; ``target`` where a target is given
    target: float | None = None
    model: str | None = None

    @model_validator(mode="after")
    def _target(self) -> "ObjectiveSettings":
        if (self.goal == "target") != (self.target is not None) and self.goal is not None:
            raise ValueError("the goal `target` and a value for `target` go together")
        return self

    def objective(self, mixed: tuple[str, ...], folder: Path) -> Objective:
        """The objective in a space in which some variables are shares of the mixed metals."""
        name = ALIASES.get(self.name, self.name)
        goal: GoalKind = "target" if self.target is not None else "max" if name == "voltage" else "min"
        model = self.model
        if model is not None and (folder / model).exists():
            model = str((folder / model).resolve())
        return Objective(name, self.goal or goal, self.target, model, mixed)


class OracleSettings(Settings):
    """Who evaluates, and how failures are dealt with; all other names are the oracle's own options."""

    model_config = ConfigDict(extra="allow", frozen=True)
    __pydantic_extra__: dict[str, Any]

    name: str
    timeout_s: Positive | None = None
    retries: NotNegative = 0

    @field_validator("name")
    @classmethod
    def _known(cls, name: str) -> str:
        if name not in oracle_names():
            raise unknown_name("oracle", name, oracle_names())
        return name

    def recipe(self, folder: Path) -> OracleRecipe:
        """What the oracle is made of."""
        return OracleRecipe(self.name, dict(self.model_extra or {}), folder)


class SurrogateSettings(Settings):
    """What predicts the points that were not evaluated."""

    kind: SurrogateName = "gp"
    #: of ``network`` and ``stacked``: pretrained name or model folder, or one for each objective by name
    model: str | dict[str, str] | None = None


class AcquisitionConfig(Settings):
    """What makes a point worth evaluating."""

    name: Acquisition = "ei"
    kappa: Annotated[float, Field(ge=0)] = 2.0  #: of ``lcb``


class BudgetSettings(Settings):
    """How much is spent."""

    evaluations: Count  #: points, those that fail too; labels that were given cost nothing
    initial: Count = 8  #: of them before the surrogate decides
    batch: Count = 1  #: points a round
    design: Initial = "sobol"  #: how the initial points are spread


class OptimisationConfig(Settings):
    """All that decides an optimisation."""

    space: SpaceSettings
    objectives: Annotated[list[ObjectiveSettings], Field(min_length=1)]
    oracle: OracleSettings
    surrogate: SurrogateSettings = SurrogateSettings()
    acquisition: AcquisitionConfig = AcquisitionConfig()
    budget: BudgetSettings
    labels: str | None = None  #: CSV of values that are known already, with error bars
    seed: NotNegative = 0

    @model_validator(mode="before")
    @classmethod
    def _short_forms(cls, values: Any) -> Any:
        """A name alone stands for settings that hold nothing else."""
        if not isinstance(values, dict):
            return values
        result = dict(values)
        for name, key in (("oracle", "name"), ("surrogate", "kind"), ("acquisition", "name")):
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
        return self

    def as_dict(self, folder: Path) -> dict[str, Any]:
        """Plain values, complete, with the sha256 of the labels: two equal ones are the same run."""
        result = self.model_dump(mode="json")
        if self.labels is not None:
            result["labels_sha256"] = sha256((folder / self.labels).read_bytes()).hexdigest()
        return result


def read_config(file: str | Path) -> OptimisationConfig:
    """The configuration in a YAML file.

    Raises
    ------
    ValueError
        One sentence for the first problem: an unknown name (with the nearest that there is), a missing setting, a value
        that is not allowed.
    OSError
        If the file cannot be read.
    """
    from cgcnn_ase.core.settings import read_yaml

    file = Path(file)
    values = read_yaml(file)
    try:
        return parse_settings(OptimisationConfig, values)
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from error
