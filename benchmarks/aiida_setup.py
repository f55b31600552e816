"""From nothing to the first prediction through AiiDA: what a user types, and how long each command takes.

Each command is a process of its own, in a fresh configuration (SQLite, ZeroMQ) in a temporary folder.
"""

import resource
import sys
import tempfile
from pathlib import Path

from _report import Table, finish, parser, run
from _structures import echo_stderr

VERDI = str(Path(sys.executable).with_name("verdi"))
SETUP = [sys.executable, "-c", "from aiida_plugin.cli.app import main; main()", "setup"]

FIRST = """
from aiida import load_profile
from aiida.engine import run
from aiida.orm import load_code
from aiida.plugins import DataFactory
from ase.build import bulk

load_profile()
builder = load_code("cgcnn-ase").get_builder()
builder.model = DataFactory("cgcnn.model").get_or_create("formation-energy-per-atom")
builder.structures = DataFactory("cgcnn.structures").from_ase([bulk("MgO", "rocksalt", a=4.21)], ["MgO"])
results = run(builder)
print(results["predictions"].to_frame()[["id", "value", "std"]].to_string())
"""


def main() -> None:
    chosen = parser(__doc__ or "", data=False).parse_args()
    with tempfile.TemporaryDirectory() as path:
        table = measure(Path(path))
    finish([table], chosen.output, vars(chosen))


def measure(path: Path) -> Table:
    script = path / "first_prediction.py"
    script.write_text(FIRST)
    commands = {
        "verdi presto --use-zeromq": [VERDI, "presto", "--use-zeromq", "--non-interactive"],
        "aiida-cgcnn setup": SETUP,
        "verdi run first_prediction.py": [VERDI, "run", str(script)],
        "aiida-cgcnn setup, again": SETUP,
    }
    table = Table(
        "From nothing to the first prediction", ["command", "s", "s of processor", "to reach"],
        notes=["seconds of processor do not depend on what else the machine does"],
    )  # fmt: skip
    for name, command in commands.items():
        before = processor_seconds()
        seconds, _ = run(command, env={"AIIDA_PATH": str(path)})
        table.rows.append([name, seconds, processor_seconds() - before, None])
        echo_stderr(f"{name}: {seconds:.1f} s")
    first = table.rows[:3]
    table.rows.insert(3, ["the three together", sum(row[1] for row in first), sum(row[2] for row in first), "≤ 30 s"])
    return table


def processor_seconds() -> float:
    """Of all processes that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    main()
