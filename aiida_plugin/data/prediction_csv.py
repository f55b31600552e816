"""The CSV file of ``cgcnn-ase predict --output out.csv``, read strictly."""

from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

from aiida_plugin.data.columns import KINDS, SAME, Column, parse_column
from cgcnn_ase.prediction import COLUMNS, SITE_COLUMNS

if TYPE_CHECKING:
    import pandas as pd


def read_csv(path: Path) -> dict[tuple[str, ...], dict[str, Column]]:
    """The columns of each model; the key is its unit, property, name and sha256.

    ``source`` is left out: where a file lay is not what the model said.

    Raises
    ------
    ValueError
        If it is no such file, cut short, damaged, or holds no prediction; the message names file and line or column.
    """
    fields = _fields(path)
    header = tuple(fields.columns)
    if tuple(name for name in header if name != "source") not in (COLUMNS, SITE_COLUMNS):
        raise ValueError(f"{path}: not written by cgcnn-ase predict: its header is {','.join(header)}")
    if fields.empty:
        raise ValueError(f"{path}: holds no predictions")
    for name in ("id", "value", header[-1]):  # a row with too few fields lacks the last
        if len(rows := fields.index[fields[name] == ""]):
            raise ValueError(f"{path}: damaged: prediction {rows[0] + 1} has an empty {name}")
    try:
        return {
            tuple(map(str, said)): {name: parse_column(name, own[name].tolist()) for name in header if name in KINDS}
            for said, own in fields.groupby(list(SAME), sort=False)
        }
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _fields(path: Path) -> "pd.DataFrame":
    """All fields as text; a file whose last line has no end was cut short."""
    import pandas as pd

    content = path.read_bytes()
    if not content.endswith(b"\n"):
        raise ValueError(f"{path}: {'cut short in its last line' if content else 'empty'}")
    try:
        fields = pd.read_csv(BytesIO(content), dtype=object, keep_default_na=False, na_filter=False, encoding="utf-8")
    except ValueError as error:  # UnicodeDecodeError and pandas' ParserError, EmptyDataError
        raise ValueError(f"{path}: damaged: {error}") from error
    if not isinstance(fields.index, pd.RangeIndex):  # pandas takes fields that the header lacks for row names
        raise ValueError(f"{path}: damaged: its rows have more fields than its header, which has {fields.shape[1]}")
    return fields
