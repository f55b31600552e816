"""Oracles: who says, at a price, what the value of a point is. What they must have, and their registry.

Each is a class and a factory, ``factory(options, *, folder) -> Oracle``; other packages register theirs as entry points
of the group ``cgcnn_ase.oracles``. Every DFT engine (``cgcnn.engines``) is an oracle of the same name, too.
"""

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from cgcnn_ase.core.registry import Registry
from cgcnn_ase.optimization.records import Evaluation, OracleError

if TYPE_CHECKING:
    from ase import Atoms

    from cgcnn_ase.optimization.records import Step
    from cgcnn_ase.optimization.space.variables import Point


@runtime_checkable
class Oracle(Protocol):
    """Anything that evaluates points.

    An oracle that computes many at once (parallel DFT) also has ``evaluate_many``: see :class:`BatchOracle`.
    """

    name: str
    #: energies of the elements on the scale of ``energy``, eV/atom; None where they are not known
    references: Mapping[str, float] | None

    def describe(self) -> dict[str, Any]:
        """What it is, as plain values: ``what`` in words for people, versions and settings. It goes into every output.

        A run is resumed only by an oracle of the same description.
        """

    def evaluate(self, point: "Point", atoms: "Atoms | None") -> Evaluation:
        """The values of one point, whose structure is `atoms` (None in a space without structures).

        Raises
        ------
        OracleError
            In words, if there is none.
        """


@runtime_checkable
class BatchOracle(Oracle, Protocol):
    """An oracle that evaluates several structures side by side."""

    def evaluate_many(
        self, points: "Sequence[Point]", structures: "Sequence[Atoms | None]"
    ) -> "Iterator[tuple[int, Evaluation | OracleError]]":
        """Yield the place in `points` and what came out, each once and as soon as it is there, in any order.

        Those that failed are asked for again as configured (``retries``); time limits are the oracle's own affair.
        """


@runtime_checkable
class RecordingOracle(Oracle, Protocol):
    """An oracle that keeps a record of its own of the run, as AiiDA's provenance graph is one."""

    def begin(self, run: Mapping[str, Any]) -> None:
        """Called once before the first evaluation.

        Parameters
        ----------
        run
            In plain values: ``config``, ``oracle`` (who says what), ``folder`` of the run, and ``objectives``: of each
            ``name``, ``wanted`` (min, max or a number) and ``model`` (what predicts it in place of the oracle, or
            None).
        """

    def on_step(self, step: "Step") -> None:
        """Called when a round is complete; of a run that is resumed for the earlier rounds again."""


OracleFactory = Callable[..., Oracle]


class _OracleRegistry(Registry[OracleFactory]):
    """With an oracle for each DFT engine that is installed, if AiiDA's part of this project makes one of it."""

    def _entry_points(self) -> dict[str, EntryPoint]:
        engines = [entry.name for entry in entry_points(group="cgcnn.engines")]
        oracles = {name: EntryPoint(name, f"aiida_plugin.oracles:{name}", self.group) for name in engines}
        return oracles | super()._entry_points()


ORACLES = _OracleRegistry(
    "oracle",
    "cgcnn_ase.oracles",
    {
        "ase": "cgcnn_ase.optimization.oracles.calculators:ase_oracle",
        "callable": "cgcnn_ase.optimization.oracles.python_function:function_oracle",
        "chgnet": "cgcnn_ase.optimization.oracles.calculators:chgnet_oracle",
        "model": "cgcnn_ase.optimization.oracles.graph_model:model_oracle",
        "table": "cgcnn_ase.optimization.oracles.table:table_oracle",
    },
)


@dataclass(frozen=True)
class OracleRecipe:
    """What an oracle is made of, here or in another process."""

    name: str
    options: Mapping[str, object] = field(default_factory=dict)
    folder: Path = Path()


def make_oracle(name: str, options: Mapping[str, object] | None = None, *, folder: Path | None = None) -> Oracle:
    """Make the oracle with a name.

    Parameters
    ----------
    name
        ``chgnet``, ``ase``, ``callable``, ``model``, ``table``, or what another installed package registers in the
        group ``cgcnn_ase.oracles``.
    options
        Its settings.
    folder
        Where files that the options name are looked for; the current folder by default.

    Raises
    ------
    ValueError
        If there is none of this name, or an option is unknown.
    """
    return ORACLES.get(name)(dict(options or {}), folder=folder or Path())


def checked(evaluation: Evaluation) -> Evaluation:
    """The same evaluation in plain numbers, if all its numbers are numbers.

    Raises
    ------
    OracleError
        If there is none, one is not finite, a standard deviation is negative, or `info` holds what JSON cannot.
    """
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
    """Numbers of any library as Python's."""
    for name, number in numbers.items():
        try:
            finite = math.isfinite(number)
        except TypeError as error:
            raise OracleError(f"{what}{name} is {number!r}, not a number") from error
        if not finite:
            raise OracleError(f"{what}{name} is {float(number)!r}, not a finite number")
    return {str(name): float(number) for name, number in numbers.items()}
