"""A table of measured or computed values as oracle: what is not in it is no candidate."""

import math
from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cgcnn_ase.core.settings import Settings, parse_settings
from cgcnn_ase.optimization.records import Evaluation, OracleError

if TYPE_CHECKING:
    import pandas as pd
    from ase import Atoms

    from cgcnn_ase.optimization.space.variables import Point


class TableSettings(Settings):
    """Of ``table``."""

    file: str


#: the ending of a column with error bars
STD = "_std"


class TableOracle:
    """Values of the points that a CSV file has.

    The columns named as variables say which point a row is; all others are values, those that end in ``_std`` the
    standard deviations (error bars) of the value they are named after. An empty cell is a value that is not known.

    Parameters
    ----------
    file
        The CSV file, with a header.
    """

    def __init__(self, file: Path) -> None:
        self.name = "table"
        self.references: Mapping[str, float] | None = None
        self.file = file
        self._frame = read_table(file)
        self._sha256 = sha256(file.read_bytes()).hexdigest()
        self._rows: dict[tuple[str, ...], dict[tuple[object, ...], int]] = {}

    def describe(self) -> dict[str, Any]:
        """The file's name and sha256."""
        return {"name": self.name, "what": f"the table {self.file.name}", "sha256": self._sha256}

    def points(self, names: Sequence[str]) -> "list[Point]":
        """The points of all rows, once each, in the order of the file.

        Raises
        ------
        ValueError
            If a variable has no column.
        """
        missing = [name for name in names if name not in self._frame.columns]
        if missing:
            raise ValueError(f"{self.file}: no column {', '.join(missing)}; a column for each variable is needed")
        rows = self._by_point(tuple(names))
        return [{name: _python_value(self._frame[name].iloc[row]) for name in names} for row in rows.values()]

    def evaluate(self, point: "Point", atoms: "Atoms | None") -> Evaluation:
        """The values and error bars in the point's row.

        Raises
        ------
        OracleError
            If the table does not have the point.
        """
        del atoms
        names = tuple(point)
        row = self._by_point(names).get(tuple(rounded(value) for value in point.values()))
        if row is None:
            raise OracleError(f"{self.file.name} has no row for this point")
        cells = {name: self._frame[name].iloc[row] for name in self._frame.columns if name not in names}
        numbers = {name: float(cell) for name, cell in cells.items() if _is_number(cell)}
        stds = {name.removesuffix(STD): value for name, value in numbers.items() if name.endswith(STD)}
        values = {name: value for name, value in numbers.items() if not name.endswith(STD)}
        return Evaluation(values, {name: std for name, std in stds.items() if name in values})

    def _by_point(self, names: tuple[str, ...]) -> dict[tuple[object, ...], int]:
        if names not in self._rows:
            result: dict[tuple[object, ...], int] = {}
            columns = [self._frame[name] for name in names if name in self._frame.columns]
            for row, cells in enumerate(zip(*columns, strict=True)):
                key = tuple(rounded(_python_value(cell)) for cell in cells)
                if key in result:
                    raise ValueError(
                        f"{self.file}: rows {result[key] + 2} and {row + 2} are the same point; give one, with its "
                        "mean and error bar"
                    )
                result[key] = row
            self._rows[names] = result
        return self._rows[names]


def read_table(file: Path) -> "pd.DataFrame":
    """A CSV file with a header; ``NaN`` is text, an empty cell is empty.

    Raises
    ------
    ValueError
        If it has no rows or cannot be read as CSV.
    OSError
        If it cannot be read at all.
    """
    import pandas as pd

    try:
        frame = pd.read_csv(file, keep_default_na=False, na_values=[""])
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise ValueError(f"{file}: not a CSV file: {error}") from error
    if frame.empty:
        raise ValueError(f"{file}: has no rows")
    return frame


def table_oracle(options: Mapping[str, Any], *, folder: Path) -> TableOracle:
    """``table``, with ``file: values.csv`` (beside the configuration)."""
    return TableOracle(folder / parse_settings(TableSettings, options, "oracle").file)


def _python_value(cell: Any) -> float | int | str:
    """A cell as Python's own number or text."""
    result = cell.item() if hasattr(cell, "item") else cell
    assert isinstance(result, float | int | str)
    return result


def rounded(value: float | int | str) -> object:
    """A value as it is compared, to the digits that files have: 0.3333 and 1/3 are the same."""
    return value if isinstance(value, str) else round(float(value), 4)


def _is_number(cell: Any) -> bool:
    return isinstance(_python_value(cell), float | int) and not math.isnan(float(cell))
