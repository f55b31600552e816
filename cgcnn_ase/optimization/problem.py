"""The space of a configuration, the structures of its points, and its objectives."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cgcnn_ase.optimization.objectives import Objective
from cgcnn_ase.optimization.oracles.base import Oracle
from cgcnn_ase.optimization.oracles.python_function import load_named
from cgcnn_ase.optimization.oracles.table import rounded
from cgcnn_ase.optimization.records import OracleError
from cgcnn_ase.optimization.space.cathode_space import DOPANT_CONTENT, VACANCIES, Repeats
from cgcnn_ase.optimization.space.search_space import SearchSpace
from cgcnn_ase.optimization.space.variables import Point

if TYPE_CHECKING:
    from ase import Atoms

    from cgcnn_ase.optimization.config import OptimisationConfig, SpaceSettings

MakeStructure = Callable[[Point], "Atoms"]


@dataclass(frozen=True)
class Problem:
    """What is searched, and for what.

    Attributes
    ----------
    space
        The points.
    make_structure
        The structure of a point; None in a space without structures.
    objectives
        What is optimised.
    candidates
        The only points that may be evaluated, where the oracle does not know all; None for the whole space.
    """

    space: SearchSpace
    make_structure: MakeStructure | None
    objectives: tuple[Objective, ...]
    candidates: "list[Point] | None" = None

    def structure(self, point: Point) -> "Atoms | None":
        """The structure of a point.

        Raises
        ------
        OracleError
            If it cannot be made; nothing can be evaluated then.
        """
        if self.make_structure is None:
            return None
        try:
            return self.make_structure(point)
        except Exception as error:  # it may be the user's own function, and the reason is recorded with the point
            raise OracleError(f"no structure: {type(error).__name__}: {error}") from error


def build_problem(config: "OptimisationConfig", oracle: Oracle, folder: Path) -> Problem:
    """The problem that a configuration describes.

    Parameters
    ----------
    config
        The configuration.
    oracle
        Its oracle: one with ``points(names)`` (a table) says which points there are.
    folder
        Where files are looked for: that of the configuration.

    Raises
    ------
    ValueError
        If a range is empty, or an objective cannot be computed in this space.
    """
    space, make_structure = _space(config.space, folder)
    # with a host the shares that add up to one are those of the metals
    mixed = space.sum_to_one if config.space.host is not None else ()
    objectives = tuple(one.objective(mixed, folder) for one in config.objectives)
    for objective in objectives:
        _check_objective(objective, space)
    return Problem(space, make_structure, objectives, _candidates(space, oracle))


def _space(settings: "SpaceSettings", folder: Path) -> tuple[SearchSpace, MakeStructure | None]:
    if settings.host is None:
        space = SearchSpace.from_dict({"variables": settings.variables, "sum_to_one": settings.sum_to_one})
        return space, load_named(settings.structure, folder, "space.structure") if settings.structure else None

    from cgcnn_ase.optimization.space.cathode_space import SUPERCELL, cathode_space, cathode_structure

    host: str = settings.host
    supercell: Repeats = settings.supercell or SUPERCELL
    removal = settings.li_removal

    def make(point: Point) -> "Atoms":
        return cathode_structure(point, host=host, supercell=supercell, li_removal=removal)

    return cathode_space(settings.variables, host=host, supercell=supercell), make


def _check_objective(objective: Objective, space: SearchSpace) -> None:
    """That the cells it is computed from are points of the space."""
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


def _candidates(space: SearchSpace, oracle: Oracle) -> "list[Point] | None":
    """The points of the space that a table has."""
    points = getattr(oracle, "points", None)
    if points is None:
        return None
    result: list[Point] = []
    for point in points(space.names):
        snapped = space.snap(point)
        if all(rounded(point[name]) == rounded(snapped[name]) for name in space.names):
            result.append(snapped)
    if not result:
        raise ValueError(f"{oracle.describe()['what']} has no point of the space")
    return result
