"""Reference crystals from the Materials Project, and a pretrained model fine-tuned on them.

With a key in MP_API_KEY the real database is asked for stable oxides of Li and Ni, Co or Mn. Without one a small server
on this machine is asked, whose crystals are real and whose values are made up: the same commands, and no result that
means anything. Needs `pip install "cgcnn-ase[mp,train]"`.
"""

import os
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

COMMAND = [sys.executable, "-m", "cgcnn_ase.cli"]


def run(*arguments: str, allowed: tuple[int, ...] = (0,)) -> None:
    """One command as in a terminal."""
    print("$ cgcnn-ase", *arguments, flush=True)
    code = subprocess.run([*COMMAND, *arguments]).returncode
    if code not in allowed:
        sys.exit(f"exit code {code}")


with ExitStack() as stack:
    work = Path(stack.enter_context(tempfile.TemporaryDirectory()))
    where = ["--cache", str(work / "cache")]
    if os.environ.get("MP_API_KEY"):
        print("the Materials Project", flush=True)
        question = ["--chemsys", "Li-Ni-O,Li-Co-O,Li-Mn-O,Ni-O,Co-O,Mn-O,Li-O", "--max-atoms", "20", "--limit", "120"]
    else:
        print("no MP_API_KEY: a server on this machine, whose values are made up", flush=True)
        sys.path.insert(0, str(Path(__file__).resolve().parent / "servers"))
        from materials_project_server import KEY, serve

        server = stack.enter_context(serve(160))
        os.environ["MP_API_KEY"] = KEY
        where += ["--endpoint", server.url]
        question = ["--elements", "O", "--max-atoms", "5"]
    data, model = str(work / "data"), str(work / "model")
    run(
        *("fetch", "--output", data, *question, *where),
        *("--range", "energy_above_hull=:0.1", "--fields", "formation_energy_per_atom,energy_above_hull"),
        allowed=(0, 1),  # 1: some records could not be used, the rest is there
    )
    print((work / "data" / "README.md").read_text().partition("`structures.npz`")[0])
    run(
        *("train", data, "--output", model, "--target", "formation_energy_per_atom", "--unit", "eV/atom"),
        *("--from", "formation-energy-per-atom", "--members", "1"),
    )
