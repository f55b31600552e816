"""The columns of predictions as numpy arrays in one file, exactly: what is missing stays missing, not NaN."""

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias, cast

import numpy as np
import numpy.typing as npt

from cgcnn_ase.prediction.results import COLUMNS, MEMBERS, SITE_COLUMNS

if TYPE_CHECKING:
    import pandas as pd

Column: TypeAlias = list[Any]  # of str, float, int or bool, and None for what is missing
Arrays: TypeAlias = dict[str, npt.NDArray[Any]]
Kind = Literal["text", "number", "whole", "flag", "row of numbers"]

# the kind of each column; those of :data:`CONSTANT_COLUMNS` say the same of all predictions of a model
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
    "domain_score": "number",
    "population": "text",
    "second_opinion_std": "number",
    "scale": "text",
    MEMBERS: "row of numbers",
}
# those that nodes of earlier versions lack
LATER = ("domain_score", "population", "second_opinion_std", "scale", MEMBERS)
CONSTANT_COLUMNS = ("unit", "property", "model", "model_sha256")


def read_csv(path: Path) -> dict[tuple[str, ...], dict[str, Column]]:
    """The columns of each model; the key is its unit, property, name and sha256.

    ``source`` is left out: where a file lay is not what the model said. A file that is none, cut short, damaged, or
    holds no prediction is a ValueError that names file and line or column.
    """
    fields = _fields(path)
    header = tuple(fields.columns)
    if tuple(name for name in header if name not in ("source", MEMBERS)) not in (COLUMNS, SITE_COLUMNS):
        raise ValueError(f"{path}: not written by cgcnn-ase predict: its header is {','.join(header)}")
    if fields.empty:
        raise ValueError(f"{path}: holds no predictions")
    for name in ("id", "value", header[-1]):  # a row with too few fields lacks the last
        if len(rows := fields.index[fields[name] == ""]):
            raise ValueError(f"{path}: damaged: prediction {rows[0] + 1} has an empty {name}")
    kept = [name for name in header if name in KINDS]
    try:
        return {
            tuple(map(str, shared)): {name: parse_column(name, of_model[name].tolist()) for name in kept}
            for shared, of_model in fields.groupby(list(CONSTANT_COLUMNS), sort=False)
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


def parse_column(name: str, texts: Sequence[str]) -> Column:
    """A column of a CSV file; an empty field is a missing one, but for an empty ``reason``; errors name the field."""
    if name == "reason":
        return list(texts)
    codec, column = _CODECS[KINDS[name]], []
    for text in texts:
        try:
            column.append(codec.parse(text) if text else None)
        except (KeyError, ValueError):  # noqa: PERF203 - the message names the field
            raise ValueError(f"column {name}: {text!r} is no {codec.allowed}") from None
    return column


def write_columns(columns: Mapping[str, Column], kinds: Mapping[str, Kind] = KINDS) -> bytes:
    """An uncompressed ``.npz`` file, the same for the same columns of these kinds; no pickle.

    A column has an array with its name; text has its distinct texts besides, and numbers may have a mask.
    """
    arrays: Arrays = {}
    for name, column in columns.items():
        arrays |= {f"{name}{suffix}": array for suffix, array in _CODECS[kinds[name]].write(column).items()}
    file = BytesIO()
    np.savez(file, allow_pickle=False, **arrays)
    return file.getvalue()


def read_columns(
    content: bytes, ids: Collection[str] | None = None, kinds: Mapping[str, Kind] = KINDS
) -> dict[str, Column]:
    """The columns that :func:`write_columns` wrote; only of these ids, the other rows never being Python objects."""
    with np.load(BytesIO(content), allow_pickle=False) as file:
        arrays: Arrays = dict(file)
    if ids is not None:
        wanted = set(ids)
        rows = np.array([name in wanted for name in _read_text("id", arrays)], dtype=bool)
        arrays = {key: a if key.endswith((".texts", ".lengths")) else a[rows] for key, a in arrays.items()}
    return {name: _CODECS[kind].read(name, arrays) for name, kind in kinds.items() if name in arrays}


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
    numbers = cast(Column, arrays[name].tolist())
    if (missing := arrays.get(f"{name}.missing")) is None:
        return numbers
    return [None if gone else number for number, gone in zip(numbers, missing.tolist(), strict=True)]


def _write_whole(dtype: npt.DTypeLike, column: Column) -> Arrays:
    """Counts, indices and flags: -1 is a missing one."""
    return {"": np.array([-1 if number is None else int(number) for number in column], dtype=dtype)}


def _read_whole(kind: type[int], name: str, arrays: Arrays) -> Column:
    return [None if number < 0 else kind(number) for number in arrays[name].tolist()]


def _write_rows(column: Column) -> Arrays:
    """Rows of so many numbers each; none at all where all are missing."""
    width = {len(row) for row in column if row is not None}
    if not width:
        return {}
    if len(width) > 1:
        raise ValueError(f"rows of {' and '.join(map(str, sorted(width)))} numbers in one column")
    missing = np.array([row is None for row in column], dtype=bool)
    nothing = (np.nan,) * width.pop()
    numbers = {"": np.array([nothing if row is None else row for row in column], dtype=np.float64)}
    return numbers | {".missing": missing} if missing.any() else numbers


def _read_rows(name: str, arrays: Arrays) -> Column:
    rows = _read_numbers(name, arrays)
    return [None if row is None else tuple(row) for row in rows]


class _Codec(NamedTuple):
    """How columns of a kind are read and written."""

    allowed: str
    parse: Callable[[str], object]
    write: Callable[[Column], Arrays]
    read: Callable[[str, Arrays], Column]


_CODECS: dict[Kind, _Codec] = {
    "text": _Codec("text", str, _write_text, _read_text),
    "number": _Codec("number", float, _write_numbers, _read_numbers),
    "whole": _Codec("whole number", int, partial(_write_whole, np.int64), partial(_read_whole, int)),
    "flag": _Codec(
        "True or False",
        {"True": True, "False": False}.__getitem__,
        partial(_write_whole, np.int8),
        partial(_read_whole, bool),
    ),
    "row of numbers": _Codec("row of numbers", lambda text: tuple(map(float, text.split())), _write_rows, _read_rows),
}
