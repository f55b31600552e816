"""Tables of measured or computed values: as oracle, where what is not in one is no candidate, and as known labels."""

import math
from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, cast

from cgcnn_ase.core.settings import Settings, parse_settings
from cgcnn_ase.optimization.oracles.base import Evaluation, OracleError
from cgcnn_ase.optimization.space.cathode_space import ORDERING
from cgcnn_ase.optimization.space.search_space import SearchSpace
from cgcnn_ase.optimization.space.variables import Point, Value

if TYPE_CHECKING:
    import pandas as pd
    from ase import Atoms

# the ending of a column with error bars
STD = "_std"
# what stands for the variable that an experiment does not have: which ordering it was
_NO_ORDERING = -1
# how far a number may be outside the range, to the digits that files have
_ROUNDING = 1e-4


class TableSettings(Settings):
    """Options of ``table``."""

    file: str


class TableOracle:
    """Values of the points that a CSV file has.

    The columns named as variables say which point a row is; all others are values, those that end in ``_std`` the
    standard deviations (error bars) of the value they are named after. An empty cell is a value that is not known.
    """

    name = "table"

    def __init__(self, file: Path) -> None:
        self.references: Mapping[str, float] | None = None
        self.file = file
        self._frame = read_table(file)
        self._sha256 = sha256(file.read_bytes()).hexdigest()
        self._rows: dict[tuple[str, ...], dict[tuple[Value, ...], int]] = {}

    def describe(self) -> dict[str, object]:
        """Return the file's name and sha256."""
        return {"name": self.name, "what": f"the table {self.file.name}", "sha256": self._sha256}

    def points(self, names: Sequence[str]) -> list[Point]:
        """Return the points of all rows, once each, in the order of the file; each variable needs a column."""
        if missing := [name for name in names if name not in self._frame.columns]:
            raise ValueError(f"{self.file}: no column {', '.join(missing)}; a column for each variable is needed")
        rows = self._by_point(tuple(names))
        return [{name: _python_value(self._frame[name].iloc[row]) for name in names} for row in rows.values()]

    def evaluate(self, point: Point, atoms: "Atoms | None") -> Evaluation:
        """Return the values and error bars in the point's row; an error where there is none."""
        del atoms
        names = tuple(point)
        row = self._by_point(names).get(tuple(rounded(value) for value in point.values()))
        if row is None:
            raise OracleError(f"{self.file.name} has no row for this point")
        cells = {n: _python_value(self._frame[n].iloc[row]) for n in self._frame.columns if n not in names}
        numbers = {n: float(cell) for n, cell in cells.items() if not isinstance(cell, str) and not math.isnan(cell)}
        values = {name: value for name, value in numbers.items() if not name.endswith(STD)}
        return Evaluation(values, {name: numbers[name + STD] for name in values if name + STD in numbers})

    def _by_point(self, names: tuple[str, ...]) -> dict[tuple[Value, ...], int]:
        """Return the row of each point, by its rounded values."""
        if names not in self._rows:
            rows: dict[tuple[Value, ...], int] = {}
            columns = [self._frame[name] for name in names if name in self._frame.columns]
            for row, cells in enumerate(zip(*columns, strict=True)):
                key = tuple(rounded(_python_value(cell)) for cell in cells)
                if key in rows:
                    raise ValueError(
                        f"{self.file}: rows {rows[key] + 2} and {row + 2} are the same point; give one, with its mean "
                        "and error bar"
                    )
                rows[key] = row
            self._rows[names] = rows
        return self._rows[names]


def table_oracle(options: Mapping[str, object], *, folder: Path) -> TableOracle:
    """Make ``table``, with ``file: values.csv`` (beside the configuration)."""
    return TableOracle(folder / parse_settings(TableSettings, options, "oracle").file)


def read_table(file: Path) -> "pd.DataFrame":
    """Read a CSV file with a header, or raise a ValueError; ``NaN`` is text, an empty cell is empty."""
    import pandas as pd

    try:
        frame = pd.read_csv(file, keep_default_na=False, na_values=[""])
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise ValueError(f"{file}: not a CSV file: {error}") from error
    if frame.empty:
        raise ValueError(f"{file}: has no rows")
    return frame


def rounded(value: Value) -> Value:
    """Round a value as it is compared, to the digits that files have: 0.3333 and 1/3 are the same."""
    return value if isinstance(value, str) else round(float(value), 4)


def _python_value(cell: object) -> Value:
    """Return a cell as Python's own number or text."""
    value = cell.item() if hasattr(cell, "item") else cell
    assert isinstance(value, float | int | str)
    return value


class Label(NamedTuple):
    """One point with known values."""

    point: Point
    values: dict[str, float]
    stds: dict[str, float]


def read_labels(file: Path, space: SearchSpace, objectives: Sequence[str]) -> list[Label]:
    """Read values that are known before the first round: measurements with error bars, or earlier calculations.

    The CSV file has a column for each variable, one for each objective, and ``NAME_std`` with its error bar. A
    composition need not be one that the space can realise, but must lie in its ranges. Without a column
    ``ordering_seed`` the label is of the composition, and of none of its orderings. A ValueError names the row that
    cannot be used.
    """
    frame = read_table(file)
    variables = [name for name in space.names if name in frame.columns or name != ORDERING]
    if missing := [name for name in [*variables, *objectives] if name not in frame.columns]:
        raise ValueError(f"{file}: no column {', '.join(missing)}; needed are {', '.join([*variables, *objectives])}")
    labels: list[Label] = []
    seen: dict[str, int] = {}
    for k, row in enumerate(cast("list[dict[str, Value]]", frame.to_dict("records")), start=2):
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
        labels.append(Label(point, values, stds))
    return labels


def _point(space: SearchSpace, values: Mapping[str, Value], where: str) -> Point:
    """Return the row's point, as it is; in the ranges of the space, and its shares adding up to one."""
    point = space.ordered({ORDERING: _NO_ORDERING, **values})
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
    return point


def _number(cell: Value, where: str) -> float:
    if isinstance(cell, int | float) and math.isfinite(cell):
        return float(cell)
    raise ValueError(f"{where} is {'empty' if cell != cell else repr(cell)}, not a finite number")
