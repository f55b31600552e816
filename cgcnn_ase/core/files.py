"""Files and folders that are there as a whole or not at all, and the cache folder."""

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Give a temporary path beside a file or folder, which takes its place when the block ends.

    After an error nothing is left of it, and what was at ``path`` stays. The name ends as that of ``path`` does. A
    folder takes the place of none, or of an empty one.

    Examples
    --------
    >>> with atomic_path(Path("table.csv")) as tmp:  # doctest: +SKIP
    ...     frame.to_csv(tmp)
    """
    tmp = path.with_name(f".{os.getpid()}.{path.name}")
    try:
        yield tmp
        tmp.replace(path)
    finally:
        if tmp.is_dir():
            shutil.rmtree(tmp)
        else:
            tmp.unlink(missing_ok=True)


def atomic_write(path: Path, content: str | bytes) -> None:
    """Write a file at once: a reader, or a crash, sees the old content or the new; text as UTF-8."""
    with atomic_path(path) as tmp:
        tmp.write_bytes(content.encode() if isinstance(content, str) else content)


def check_replaceable(folder: Path, patterns: Sequence[str], *, marks: Sequence[str], what: str) -> None:
    """See that a folder that is not empty holds ``what`` and nothing else, before it is written over.

    Parameters
    ----------
    patterns
        Of the names that such a folder holds; a folder of another name may hold files of these names.
    marks
        Patterns of which one name at least must be there.
    what
        The folder's kind in messages, as ``an earlier fetch``.

    Raises
    ------
    ValueError
        If it is a file, lacks all marks, or holds something else, which is named.
    """
    if not folder.exists():
        return
    if not folder.is_dir():
        raise ValueError(f"{folder}: is a file; name a folder")
    if not any(folder.iterdir()):
        return
    if not any(path.match(mark) for mark in marks for path in folder.iterdir()):
        raise ValueError(
            f"{folder}: is not empty and holds not {what}, which alone is written over; name another folder"
        )
    if (strange := next(_strangers(folder, patterns), None)) is not None:
        raise ValueError(
            f"{folder}: holds {strange.relative_to(folder)} beside {what}, which alone is written over; move it away, "
            "or name another folder"
        )


def clear_folder(folder: Path, *, keep: Sequence[str] = ()) -> None:
    """Remove what is in a folder, but for these names; that it may be, :func:`check_replaceable` tells."""
    for path in folder.iterdir() if folder.is_dir() else ():
        if path.name in keep:
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def _strangers(folder: Path, patterns: Sequence[str]) -> Iterator[Path]:
    for path in sorted(folder.iterdir()):
        if any(path.match(pattern) for pattern in patterns):
            continue
        if path.is_dir() and not path.is_symlink() and any(path.iterdir()):
            yield from _strangers(path, patterns)
        else:
            yield path


def default_cache_folder() -> Path:
    """``$CGCNN_ASE_CACHE``, or ``cgcnn-ase`` in the user's cache folder: what need not be computed or fetched twice."""
    if folder := os.environ.get("CGCNN_ASE_CACHE"):
        return Path(folder)
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "cgcnn-ase"
