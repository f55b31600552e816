"""scikit-optimize's ``Optimizer`` as a search engine, over the points that a search space can realise."""

import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from cgcnn_ase.core.errors import unknown_name
from cgcnn_ase.optimization.acquisition import Proposal
from cgcnn_ase.optimization.engine import AskTell, SurrogateLike
from cgcnn_ase.optimization.pareto import as_cost
from cgcnn_ase.optimization.space.search_space import needs_skopt
from cgcnn_ase.optimization.space.variables import NONE, Value, Variable, as_number

if TYPE_CHECKING:
    from skopt.space import Dimension

# its names of our acquisitions
_ACQUISITIONS = {"ei": "EI", "pi": "PI", "lcb": "LCB"}


class SkoptEngine(AskTell):
    """Ask ``skopt.Optimizer``: its Gaussian process, its acquisition and its search for the best point.

    It knows neither that shares are whole numbers of atoms that add up to one, nor which points a table has: for each
    of its points the nearest one comes that can be computed and is not known yet. It is made anew for each round and
    told all that is known, so that a resumed run proposes the same; error bars are not told.

    The parameters are those of :class:`~cgcnn_ase.optimization.engine.AskTell`, with one goal, the surrogate ``gp`` and
    one of the acquisitions ``ei``, ``pi`` and ``lcb``.
    """

    def _set_up(self, surrogate: SurrogateLike) -> None:
        if surrogate != "gp" or len(self.goals) != 1:
            raise ValueError("the engine skopt has a surrogate of its own (gp), and one objective")
        if self.acquisition not in _ACQUISITIONS:
            raise unknown_name("acquisition of the engine skopt", self.acquisition, list(_ACQUISITIONS))

    def _best_next(self, n: int) -> list[Proposal]:
        with needs_skopt():
            from skopt import Optimizer

        costs = as_cost(self.labels.values[:, 0], self.goals[0])
        engine = Optimizer(
            as_dimensions(self.space.variables),
            n_initial_points=0,
            acq_func=_ACQUISITIONS[self.acquisition],
            acq_func_kwargs={"kappa": self.kappa},
            random_state=int(np.random.default_rng([self.seed, 3, self.labels.n_told]).integers(2**31)),
            avoid_duplicates=False,
        )
        believed = [costs.mean()] * len(self._pending)  # so that it goes elsewhere
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that a point was asked for before: another comes in its place
            engine.tell([self._row(p) for p in (*self.labels.pool.points, *self.pending)], [*costs.tolist(), *believed])
            rows = engine.ask(n_points=n)
        taken = self._taken()
        chosen: list[Proposal] = []
        for row in rows:
            values = [value.item() if isinstance(value, np.generic) else value for value in row]
            point = self.space.snap(dict(zip(self.space.names, values, strict=True)))
            if (key := self.space.key(point)) in taken or (self._listed and key not in self._candidates.index):
                free = [i for i, key in enumerate(self._candidates.keys) if key not in taken]
                if not free:
                    break
                distance = ((self._candidates.features[free] - self.space.features([point])) ** 2).sum(axis=1)
                point = self._candidates.points[free[int(distance.argmin())]]
            taken.add(self.space.key(point))
            chosen.append(Proposal(point, f"skopt {self.acquisition}"))
        return chosen

    def _row(self, point: Mapping[str, Value]) -> list[Value]:
        """Return the coordinates of a point, which need not be realisable, within its dimensions."""
        row: list[Value] = []
        for variable in self.space.variables:
            value = point[variable.name]
            if variable.kind == "category":
                row.append(variable.categories[0] if value == NONE else value)  # the name of nothing
            elif variable.low == variable.high:
                row.append(variable.value(0))
            else:
                number = min(max(as_number(variable.name, value), variable.low), variable.high)
                row.append(round(number) if variable.kind in ("integer", "seed") else number)
        return row


def as_dimensions(variables: Sequence[Variable]) -> "list[Dimension]":
    """``Real``, ``Integer`` and ``Categorical`` dimensions with the names and bounds of the variables.

    A number with one possible value becomes a ``Categorical`` of that value, as scikit-optimize knows no range without
    width. Shares are ``Real``: that they are whole numbers of atoms, and add up to one, only the search space knows.
    """
    with needs_skopt():
        from skopt.space import Categorical, Integer, Real

    dimensions: list[Dimension] = []
    for variable in variables:
        if variable.kind == "category":
            dimensions.append(Categorical(list(variable.categories), name=variable.name))
        elif variable.low == variable.high:
            dimensions.append(Categorical([variable.value(0)], name=variable.name))
        elif variable.kind in ("integer", "seed"):
            dimensions.append(Integer(int(variable.low), int(variable.high), name=variable.name))
        else:
            dimensions.append(Real(variable.low, variable.high, name=variable.name))
    return dimensions
