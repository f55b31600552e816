"""The workflow that the daemon is tried with: 8 shards of a small set, each run noted in a log by the code itself."""

import os
from collections import Counter
from pathlib import Path
from textwrap import dedent

from _daemon import BIN, Profile

N_SHARDS, N_STRUCTURES = 8, 16

_SUBMIT = """
import numpy as np
from ase import Atoms
from aiida import orm
from aiida.engine import submit
from aiida.plugins import DataFactory, WorkflowFactory
CHAIN = WorkflowFactory("cgcnn.predict_shards")
IMPORT
rng = np.random.default_rng(3)
crystals = [
    Atoms(rng.choice([8, 12, 14, 22], 2), scaled_positions=[(0, 0, 0), (0.5, 0.5, 0.5)], cell=3.2 * np.eye(3), pbc=True)
    for _ in range(N_STRUCTURES)
]
inputs = dict(
    code=orm.load_code(CODE),
    model=DataFactory("cgcnn.model").get_or_create(MODEL),
    structures=DataFactory("cgcnn.structures").from_ase(crystals, [f"s{k}" for k in range(N_STRUCTURES)]),
    n_shards=orm.Int(N_SHARDS),
    **EXTRA,
)
BEFORE
print("PK", submit(CHAIN, **inputs).pk)
"""


def make_code(
    profile: Profile,
    *,
    computer: str = "localhost",
    seconds: float = 0.0,
    label: str = "logged",
    before: str = "",
    command: Path | str = BIN / "cgcnn-ase",
) -> None:
    """A code that notes each start with the job's folder, waits, does what lines of bash say, and predicts.

    What it predicted once it copies the next time: the daemon is on trial, and PyTorch takes seconds to import.
    """
    script = profile.folder / f"{label}.sh"
    kept = profile.folder / "kept"
    text = dedent(f"""\
            #!/bin/bash
            echo start "$PWD" >> {profile.folder / "runs.log"}
            sleep {seconds}
            BEFORE
            kept={kept}/$(sha256sum < structures.npz | cut -c1-64)
            if [ -d "$kept" ]; then cp "$kept"/* .; exit 0; fi
            {command} "$@" || exit $?
            mkdir -p "$kept" && cp predictions.csv failures.csv "$kept"
        """)
    script.write_text(text.replace("BEFORE", before))
    script.chmod(0o755)
    profile.verdi(
        "code", "create", "core.code.installed", "--non-interactive", "--label", label, "--computer", computer,
        "--default-calc-job-plugin", "cgcnn.predict", "--filepath-executable", str(script),
        "--prepend-text", f"export PYTHONPATH={os.environ.get('PYTHONPATH', '')} OMP_NUM_THREADS=1",
    )  # fmt: skip


def submit_shards(
    profile: Profile,
    model: Path | str,
    *,
    code: str = "logged",
    n: int = N_SHARDS,
    chain: str = "",
    before: str = "",
    **extra: int,
) -> int:
    """Submit the workflow, or the CHAIN that a line of Python imports, after lines that may use its inputs; its pk."""
    inputs = "{" + ", ".join(f"{key!r}: orm.Int({value})" for key, value in extra.items()) + "}"
    head = f"N_SHARDS, N_STRUCTURES, CODE, MODEL = {n}, {N_STRUCTURES}, {code!r}, {str(model)!r}\n"
    output = profile.python(head + _SUBMIT.replace("EXTRA", inputs).replace("IMPORT", chain).replace("BEFORE", before))
    return int(output.split("PK", 1)[1].split()[0])


def runs(profile: Profile) -> Counter[str]:
    """How often the code was started in each job's folder, since the log was begun."""
    log = profile.folder / "runs.log"
    lines = log.read_text().splitlines() if log.exists() else []
    return Counter(line.split(maxsplit=1)[1] for line in lines if line.startswith("start"))
