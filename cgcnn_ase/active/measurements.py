"""Values that are known before the first round: measurements with their error bars, or earlier calculations."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from cgcnn_ase.active.oracles.table import STD, read_table

if TYPE_CHECKING:
    from cgcnn_ase.active.space import SearchSpace
    from cgcnn_ase.active.variables import Point

#: variables that an experiment does not have: which ordering it was
_SEED = "ordering_seed"
#: how far a number may be from the nearest point, in parts of the variable's range
_FAR = 0.1


class Label(NamedTuple):
    """One point with known values."""

    point: "Point"
    values: dict[str, float]
    stds: dict[str, float]
    asked: dict[str, Any]  #: the point as the file has it, before it was moved to the nearest realisable one


def read_labels(file: Path, space: "SearchSpace", objectives: Sequence[str]) -> list[Label]:
    """Labels of a CSV file: a column for each variable, one for each objective, and ``NAME_std`` with its error bar.

    A composition is moved to the nearest that the space can realise. Without a column ``ordering_seed`` the label is of
    the composition, and is given to the first ordering.

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
    variables = [name for name in space.names if name in frame.columns or name != _SEED]
    if missing := [name for name in [*variables, *objectives] if name not in frame.columns]:
        raise ValueError(f"{file}: no column {', '.join(missing)}; needed are {', '.join([*variables, *objectives])}")
    rows: list[dict[str, Any]] = [{str(k): v for k, v in row.items()} for row in frame.to_dict("records")]
    found: list[Label] = []
    seen: dict[str, int] = {}
    for k, row in enumerate(rows, start=2):
        where = f"{file}, row {k}"
        asked = {name: row[name] for name in variables}
        point = _point(space, asked, where)
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
        found.append(Label(point, values, stds, asked))
    return found


def _point(space: "SearchSpace", asked: dict[str, Any], where: str) -> "Point":
    given = dict(asked)
    if _SEED in space.names:
        given.setdefault(_SEED, 0)
    try:
        point = space.snap(given)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
    for variable in space.variables:
        if variable.kind == "category" or variable.name not in asked:
            continue
        moved = abs(float(point[variable.name]) - float(asked[variable.name]))
        if moved > max(_FAR * (variable.high - variable.low), 0.5 / variable.sites if variable.sites else 0.0) + 1e-9:
            raise ValueError(
                f"{where}: {variable.name} {asked[variable.name]:g} is not in the space; the nearest point has "
                f"{point[variable.name]:g}"
            )
    return point


def _number(cell: Any, where: str) -> float:
    from math import isfinite

    if isinstance(cell, int | float) and isfinite(cell):
        return float(cell)
    raise ValueError(f"{where} is {'empty' if cell != cell else repr(cell)}, not a finite number")
