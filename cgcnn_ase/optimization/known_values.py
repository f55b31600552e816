"""Values that are known before the first round: measurements with their error bars, or earlier calculations."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from cgcnn_ase.optimization.oracles.table import STD, read_table
from cgcnn_ase.optimization.space.cathode_space import ORDERING

if TYPE_CHECKING:
    from cgcnn_ase.optimization.space.search_space import SearchSpace
    from cgcnn_ase.optimization.space.variables import Point

#: what stands for the variable that an experiment does not have: which ordering it was
_NO_ORDERING = -1
#: how far a number may be outside the range, to the digits that files have
_ROUNDING = 1e-4


class Label(NamedTuple):
    """One point with known values."""

    point: "Point"
    values: dict[str, float]
    stds: dict[str, float]


def read_labels(file: Path, space: "SearchSpace", objectives: Sequence[str]) -> list[Label]:
    """Labels of a CSV file: a column for each variable, one for each objective, and ``NAME_std`` with its error bar.

    A composition need not be one that the space can realise, but must lie in its ranges. Without a column
    ``ordering_seed`` the label is of the composition, and of none of its orderings.

    Parameters
    ----------
    file
        With a header; other columns are not read.
    space
        The search space.
    objectives
        Names of what must be known of every row.

    Raises
    ------
    ValueError
        If a column is missing, a cell empty or no number, an error bar negative, or a row is not in the space or there
        twice; the message names the row.
    OSError
        If the file cannot be read.
    """
    frame = read_table(file)
    variables = [name for name in space.names if name in frame.columns or name != ORDERING]
    if missing := [name for name in [*variables, *objectives] if name not in frame.columns]:
        raise ValueError(f"{file}: no column {', '.join(missing)}; needed are {', '.join([*variables, *objectives])}")
    rows: list[dict[str, Any]] = [{str(k): v for k, v in row.items()} for row in frame.to_dict("records")]
    result: list[Label] = []
    seen: dict[str, int] = {}
    for k, row in enumerate(rows, start=2):
        where = f"{file}, row {k}"
        point = _point(space, {name: row[name] for name in variables}, where)
        if (key := space.key(point)) in seen:
            raise ValueError(
                f"{where}: the same point as row {seen[key]} ({key}); give one row, with its mean and error bar"
            )
        seen[key] = k
        values = {name: _number(row[name], f"{where}: {name}") for name in objectives}
        bars = {name: row[name + STD] for name in objectives if name + STD in row}
        stds = {name: _number(bar, f"{where}: {name}{STD}") for name, bar in bars.items() if bar == bar}  # not NaN
        if negative := [name for name, std in stds.items() if std < 0]:
            raise ValueError(f"{where}: the error bar of {negative[0]} is negative: {stds[negative[0]]:g}")
        result.append(Label(point, values, stds))
    return result


def _point(space: "SearchSpace", values: dict[str, Any], where: str) -> "Point":
    """The row's point, as it is; in the ranges of the space, and its shares adding up to one."""
    point: dict[str, Any] = {name: _NO_ORDERING for name in space.names if name == ORDERING} | values
    try:
        space.snap(point)  # knows the names of categories, and what is a number
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
    for variable in space.variables:
        if variable.kind != "category" and variable.name in values:
            value = float(values[variable.name])
            if not variable.low - _ROUNDING <= value <= variable.high + _ROUNDING:
                raise ValueError(
                    f"{where}: {variable.name} {value:g} is not in the space, where it is {variable.low:g} to "
                    f"{variable.high:g}"
                )
    total = sum(float(point[name]) for name in space.sum_to_one)
    if space.sum_to_one and abs(total - 1) > 10 * _ROUNDING:
        raise ValueError(f"{where}: {', '.join(space.sum_to_one)} add up to {total:g}, not to 1")
    return {name: point[name] for name in space.names}


def _number(cell: Any, where: str) -> float:
    from math import isfinite

    if isinstance(cell, int | float) and isfinite(cell):
        return float(cell)
    raise ValueError(f"{where} is {'empty' if cell != cell else repr(cell)}, not a finite number")
