"""The CSV file of ``cgcnn-ase predict --output out.csv``, read strictly."""

import csv
from io import StringIO
from pathlib import Path

from aiida_plugin.data.columns import KINDS, SAME, Column, parse_column
from cgcnn_ase.prediction import COLUMNS, SITE_COLUMNS


def read_csv(path: Path) -> dict[tuple[str, ...], dict[str, Column]]:
    """The columns of each model; the key is its unit, property, name and sha256.

    ``source`` is left out: where a file lay is not what the model said.

    Raises
    ------
    ValueError
        If it is no such file, cut short, damaged, or holds no prediction; the message names file and line or column.
    """
    rows = _rows(path)
    header = tuple(rows[0])
    if tuple(name for name in header if name != "source") not in (COLUMNS, SITE_COLUMNS):
        raise ValueError(f"{path}: not written by cgcnn-ase predict: its header is {','.join(header)}")
    if len(rows) == 1:
        raise ValueError(f"{path}: holds no predictions")
    for line, row in enumerate(rows):
        if len(row) != len(header):
            raise ValueError(f"{path}: damaged: row {line} has {len(row)} fields, the header has {len(header)}")
    where = [header.index(name) for name in SAME]
    of_models: dict[tuple[str, ...], list[list[str]]] = {}
    for row in rows[1:]:
        of_models.setdefault(tuple([row[k] for k in where]), []).append(row)
    try:
        return {model: _columns(header, own) for model, own in of_models.items()}
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _columns(header: tuple[str, ...], rows: list[list[str]]) -> dict[str, Column]:
    texts = dict(zip(header, zip(*rows, strict=True), strict=True))
    columns = {name: parse_column(name, texts[name]) for name in header if name in KINDS}
    for name in ("id", "value"):
        if None in columns[name]:
            raise ValueError(f"column {name}: a field is empty; each prediction has one")
    return columns


def _rows(path: Path) -> list[list[str]]:
    """All rows with the header; a file whose last line has no end was cut short."""
    try:
        text = path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: damaged: {error}") from error
    if not text.endswith("\n"):
        raise ValueError(f"{path}: {'cut short in its last line' if text else 'empty'}")
    try:
        return list(csv.reader(StringIO(text, newline=""), strict=True))
    except csv.Error as error:
        raise ValueError(f"{path}: damaged: {error}") from error
