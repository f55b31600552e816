"""The variables of a search space as scikit-optimize's dimensions."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from cgcnn_ase.active.variables import Variable

if TYPE_CHECKING:
    from skopt.space import Dimension

#: what to do without scikit-optimize
MISSING = 'optimisation needs scikit-optimize: pip install "cgcnn-ase[optimize]"'


def as_dimensions(variables: Sequence[Variable]) -> "list[Dimension]":
    """``Real``, ``Integer`` and ``Categorical`` dimensions with the names and bounds of the variables.

    A number with one possible value becomes a ``Categorical`` of that value, as scikit-optimize knows no range without
    width. Shares are ``Real``: that they are whole numbers of atoms, and add up to one, only the search space knows.

    Raises
    ------
    ImportError
        If scikit-optimize is not installed.
    """
    try:
        from skopt.space import Categorical, Integer, Real
    except ImportError as error:
        raise ImportError(MISSING) from error

    found: list[Dimension] = []
    for variable in variables:
        if variable.kind == "category":
            found.append(Categorical(list(variable.categories), name=variable.name))
        elif variable.low == variable.high:
            found.append(Categorical([variable.value(0)], name=variable.name))
        elif variable.kind in ("integer", "seed"):
            found.append(Integer(int(variable.low), int(variable.high), name=variable.name))
        else:
            found.append(Real(variable.low, variable.high, name=variable.name))
    return found
