"""Names of files by which a folder is known to hold prepared data, or a data set of the CGNN code."""

from pathlib import Path

# files of a data set of the CGNN code
CGNN_TARGETS, CGNN_GRAPHS, CGNN_CONFIG, CGNN_SPLIT = "targets.csv", "graph_data.npz", "config.json", "split.json"
# files of prepared data, beside those of its graphs
SAMPLES, TARGETS = "samples.csv", "targets.npy"


def is_cgnn_folder(path: Path) -> bool:
    """Say whether a folder is a data set of the CGNN code, complete or not."""
    return (path / CGNN_GRAPHS).exists() or ((path / CGNN_TARGETS).exists() and (path / CGNN_CONFIG).exists())


def shards_of(folder: Path) -> list[Path]:
    """Folders of the parts of prepared data that was written in shards."""
    return sorted(path for path in folder.glob("shard-*") if (path / "meta.json").exists())


def is_prepared(path: Path) -> bool:
    """Say whether a path is a folder written by :meth:`PreparedData.save`, or one of such folders."""
    return bool(path.is_dir() and shards_of(path)) or ((path / "meta.json").exists() and (path / SAMPLES).exists())
