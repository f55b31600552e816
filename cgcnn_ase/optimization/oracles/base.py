"""Oracles: who says, at a price, what the value of a point is. What they must have, and their registry.

Each is a class and a factory, ``factory(options, *, folder) -> Oracle``; other packages register theirs as entry points
of the group ``cgcnn_ase.oracles``. Every DFT engine (``cgcnn.engines``) is an oracle of the same name, too.
"""

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from cgcnn_ase.core.registry import Registry, entry_points
from cgcnn_ase.optimization.space.variables import Point

if TYPE_CHECKING:
    from ase import Atoms


@dataclass(frozen=True)
class Evaluation:
    """An oracle's values of one structure.

    ``energy`` is the total energy of the cell in eV, other names carry their own extent and unit
    (``formation_energy_per_atom``, eV/atom; ``band_gap``, eV).
    """

    values: Mapping[str, float]  # by name
    stds: Mapping[str, float] = field(default_factory=dict)  # one standard deviation of some or all of them
    # what else is worth keeping, as plain values: steps of a relaxation, an AiiDA node's uuid; ``scale`` is that of the
    # energies, by name, where it is not the oracle's
    info: Mapping[str, object] = field(default_factory=dict)


class OracleError(RuntimeError):
    """An evaluation that gave no usable number; the message is the reason that is recorded."""


@runtime_checkable
class Oracle(Protocol):
    """Anything that evaluates points.

    An oracle that computes many at once (parallel DFT) also has ``evaluate_many``: see :class:`BatchOracle`.
    """

    name: str
    # energies of the elements on the scale of ``energy``, eV/atom; None where they are not known
    references: Mapping[str, float] | None

    def describe(self) -> dict[str, object]:
        """Return what it is: ``what`` in words for people, versions and settings. It goes into every output.

        A run is resumed only by an oracle of the same description.
        """

    def evaluate(self, point: Point, atoms: "Atoms | None") -> Evaluation:
        """Return the values of one point; an :class:`OracleError` says in words why there are none.

        `atoms` is the point's structure, None in a space without structures.
        """


@runtime_checkable
class BatchOracle(Oracle, Protocol):
    """An oracle that evaluates several structures side by side."""

    def evaluate_many(
        self, points: Sequence[Point], structures: "Sequence[Atoms | None]"
    ) -> Iterator[tuple[int, Evaluation | OracleError]]:
        """Yield the place in `points` and what came out, each once and as soon as it is there, in any order.

        Those that failed are asked for again as configured (``retries``); time limits are the oracle's own affair.
        """


class _OracleRegistry(Registry[Callable[..., Oracle]]):
    """With an oracle for each DFT engine that is installed, if AiiDA's part of this project makes one of it."""

    def _entry_points(self) -> dict[str, EntryPoint]:
        engines = [entry.name for entry in entry_points(group="cgcnn.engines")]
        oracles = {name: EntryPoint(name, f"aiida_plugin.oracles:{name}", self.group) for name in engines}
        return oracles | super()._entry_points()


_HERE = "cgcnn_ase.optimization.oracles"
ORACLES = _OracleRegistry(
    "oracle",
    "cgcnn_ase.oracles",
    {
        "ase": f"{_HERE}.calculators:ase_oracle",
        "callable": f"{_HERE}.python_function:function_oracle",
        "chgnet": f"{_HERE}.calculators:chgnet_oracle",
        "model": f"{_HERE}.calculators:model_oracle",
        "potential": f"{_HERE}.calculators:potential_oracle",
        "table": f"{_HERE}.table:table_oracle",
    },
)


@dataclass(frozen=True)
class OracleRecipe:
    """The name, the options and the folder by which an oracle is made, here or in another process."""

    name: str
    options: Mapping[str, object] = field(default_factory=dict)
    folder: Path = Path()


def make_oracle(name: str, options: Mapping[str, object] | None = None, *, folder: Path | None = None) -> Oracle:
    """Make the oracle with a name, of its own options.

    Files that the options name are looked for in `folder`, by default the current one. There is a ValueError where no
    such name or option is known.
    """
    return ORACLES.get(name)(dict(options or {}), folder=folder or Path())


def needs_structure(who: str, atoms: "Atoms | None") -> "Atoms":
    """Return the structure, or raise :class:`OracleError` in a space that has none."""
    if atoms is None:
        raise OracleError(f"{who} needs a structure, and the configuration makes none: give `structure`")
    return atoms


def checked(evaluation: Evaluation) -> Evaluation:
    """Return the same evaluation in plain numbers, or raise :class:`OracleError` where one is no finite number."""
    values, stds = _finite(evaluation.values, ""), _finite(evaluation.stds, "the std of ")
    if not values:
        raise OracleError("the oracle gave no value")
    for name, std in stds.items():
        if std < 0:
            raise OracleError(f"the std of {name} is negative: {std:g}")
    try:
        info = json.loads(json.dumps(dict(evaluation.info), allow_nan=False))
    except (TypeError, ValueError) as error:
        raise OracleError(f"info holds what cannot be saved: {error}") from error
    return Evaluation(values, stds, info)


def _finite(numbers: Mapping[str, float], what: str) -> dict[str, float]:
    """Return numbers of any library as Python's."""
    for name, number in numbers.items():
        try:
            finite = math.isfinite(number)
        except TypeError as error:
            raise OracleError(f"{what}{name} is {number!r}, not a number") from error
        if not finite:
            raise OracleError(f"{what}{name} is {float(number)!r}, not a finite number")
    return {str(name): float(number) for name, number in numbers.items()}
