"""The columns of predictions as numpy arrays in one file, exactly: what is missing stays missing, not NaN."""

from collections.abc import Callable, Collection, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from cgcnn_ase.prediction.results import COLUMNS, SITE_COLUMNS

if TYPE_CHECKING:
    import pandas as pd


Column = list[Any]  #: of str, float, int or bool, and None for what is missing


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
            tuple(map(str, shared)): {
                name: parse_column(name, model_rows[name].tolist()) for name in header if name in KINDS
            }
            for shared, model_rows in fields.groupby(list(CONSTANT_COLUMNS), sort=False)
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


Kind = Literal["text", "number", "whole", "flag"]

#: what is in each column; the columns of :data:`CONSTANT_COLUMNS` say the same of all predictions of a model
KINDS: dict[str, Kind] = {
    "id": "text",
    "site_index": "whole",
    "element": "text",
    "multiplicity": "whole",
    "formula": "text",
    "n_atoms": "whole",
    "value": "number",
    "std": "number",
    "lower": "number",
    "upper": "number",
    "epistemic": "number",
    "aleatoric": "number",
    "in_domain": "flag",
    "reason": "text",
}
CONSTANT_COLUMNS = ("unit", "property", "model", "model_sha256")
Arrays = dict[str, npt.NDArray[Any]]
_FLAGS = {"True": True, "False": False}
_PARSERS: dict[Kind, Callable[[str], Any]] = {
    "text": str,
    "number": float,
    "whole": int,
    "flag": _FLAGS.__getitem__,
}


def parse_column(name: str, texts: Sequence[str]) -> Column:
    """A column of a CSV file; an empty field is a missing one, but for an empty ``reason``.

    Raises
    ------
    ValueError
        If a field is not what the column holds; the message names both.
    """
    if name == "reason":
        return list(texts)
    parse = _PARSERS[KINDS[name]]
    try:
        return [parse(text) if text else None for text in texts]
    except (KeyError, ValueError):
        bad = next(text for text in texts if text and not _can(parse, text))
        raise ValueError(f"column {name}: {bad!r} is no {_ALLOWED[KINDS[name]]}") from None


_ALLOWED: dict[Kind, str] = {"text": "text", "number": "number", "whole": "whole number", "flag": "True or False"}


def _can(parse: Callable[[str], Any], text: str) -> bool:
    try:
        parse(text)
    except (KeyError, ValueError):
        return False
    return True


def write_columns(columns: Mapping[str, Column]) -> bytes:
    """An uncompressed ``.npz`` file, the same for the same columns; no pickle."""
    arrays: Arrays = {}
    for name, column in columns.items():
        arrays |= {f"{name}{suffix}": array for suffix, array in _WRITERS[KINDS[name]](column).items()}
    file = BytesIO()
    np.savez(file, **arrays)  # type: ignore[arg-type]
    return file.getvalue()


def read_columns(content: bytes) -> dict[str, Column]:
    """What :func:`write_columns` wrote."""
    with np.load(BytesIO(content), allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files}
    return {name: _READERS[kind](name, arrays) for name, kind in KINDS.items() if name in arrays}


# A column has an array with its name; text has its distinct texts besides, and numbers may have a mask.
def read_rows(content: bytes, ids: Collection[str]) -> dict[str, Column]:
    """The rows of these ids, of what :func:`write_columns` wrote; the other rows are not turned into Python objects."""
    with np.load(BytesIO(content), allow_pickle=False) as file:
        arrays = dict(file)
    wanted = set(ids)
    rows = np.array([name in wanted for name in _READERS["text"]("id", arrays)], dtype=bool)
    selected = {key: array if key.endswith((".texts", ".lengths")) else array[rows] for key, array in arrays.items()}
    return {name: _READERS[kind](name, selected) for name, kind in KINDS.items() if name in selected}


def _write_text(column: Column) -> Arrays:
    """The number of each text among the distinct ones (-1: missing), these one after another, and their lengths."""
    known: dict[str, int] = {}
    codes = [-1 if text is None else known.setdefault(text, len(known)) for text in column]
    joined = "".join(known).encode("utf-8", "surrogatepass")
    return {
        "": np.array(codes, dtype=np.int32),
        ".texts": np.frombuffer(joined, dtype=np.uint8),
        ".lengths": np.array([len(text) for text in known], dtype=np.int64),
    }


def _read_text(name: str, arrays: Arrays) -> Column:
    joined = arrays[f"{name}.texts"].tobytes().decode("utf-8", "surrogatepass")
    ends = np.cumsum(arrays[f"{name}.lengths"]).tolist()
    texts = [joined[start:end] for start, end in zip([0, *ends], ends, strict=False)]
    return [None if code < 0 else texts[code] for code in arrays[name].tolist()]


def _write_numbers(column: Column) -> Arrays:
    missing = np.array([number is None for number in column], dtype=bool)
    numbers = {"": np.array(column, dtype=np.float64)}  # None becomes NaN
    return numbers | {".missing": missing} if missing.any() else numbers


def _read_numbers(name: str, arrays: Arrays) -> Column:
    numbers: Column = arrays[name].tolist()
    if (missing := arrays.get(f"{name}.missing")) is None:
        return numbers
    return [None if gone else number for number, gone in zip(numbers, missing.tolist(), strict=True)]


def _write_whole(column: Column) -> Arrays:
    """Counts and indices: -1 is a missing one."""
    return {"": np.array([-1 if number is None else number for number in column], dtype=np.int64)}


def _read_whole(name: str, arrays: Arrays) -> Column:
    return [None if number < 0 else number for number in arrays[name].tolist()]


def _write_flags(column: Column) -> Arrays:
    return {"": np.array([-1 if flag is None else int(flag) for flag in column], dtype=np.int8)}


def _read_flags(name: str, arrays: Arrays) -> Column:
    return [None if flag < 0 else flag == 1 for flag in arrays[name].tolist()]


_WRITERS: dict[Kind, Callable[[Column], Arrays]] = {
    "text": _write_text,
    "number": _write_numbers,
    "whole": _write_whole,
    "flag": _write_flags,
}
_READERS: dict[Kind, Callable[[str, Arrays], Column]] = {
    "text": _read_text,
    "number": _read_numbers,
    "whole": _read_whole,
    "flag": _read_flags,
}
