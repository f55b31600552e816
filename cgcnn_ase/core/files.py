"""Files and folders that are there as a whole or not at all, and the cache folder."""

import os
import shutil
from collections.abc import Iterator
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


def default_cache_folder() -> Path:
    """``$CGCNN_ASE_CACHE``, or ``cgcnn-ase`` in the user's cache folder: what need not be computed or fetched twice."""
    if folder := os.environ.get("CGCNN_ASE_CACHE"):
        return Path(folder)
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "cgcnn-ase"
