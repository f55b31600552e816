"""The commands in README and the documentation: each is parsed, and run in a folder with what its page speaks of.

The blocks of a page are one session: they run in one folder, one after another. A comment in the source of a page says
why a block is not run (``<!-- needs: network -->``), or that its first command is a server for the rest of the page
(``<!-- runs: server -->``).
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
import typer
import yaml

from .extensions.test_extensions import installed as installed

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted(ROOT.glob("docs/**/*.md"))]
BLOCK = re.compile(r"(?:^<!-- (\w+): (\w+) -->\n)?^```(?:bash|sh|console)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
#: reasons not to run a block; the last two: nodes of the reader's own AiiDA profile, a server of the reader's own
NEEDS = ("network", "key", "licence", "profile", "server")
#: its own test runs each line of it
OTHERS = ("docs/how_to/coming_from.md",)
#: pages that run in seconds
QUICK = (
    "docs/how_to/find_defects.md",
    "docs/tutorials/first_prediction.md",
)
#: pages that take longer
LONG = (
    "README.md",
    "docs/concepts/defect_energies.md",
    "docs/development/extending/architecture.md",
    "docs/how_to/calibrate.md",
    "docs/how_to/cathodes.md",
    "docs/how_to/defects.md",
    "docs/how_to/explain.md",
    "docs/how_to/fetch.md",
    "docs/how_to/finetune.md",
    "docs/how_to/inspect.md",
    "docs/how_to/optimize.md",
    "docs/how_to/predict.md",
    "docs/how_to/learn.md",
    "docs/how_to/relax.md",
    "docs/how_to/screen.md",
    "docs/how_to/stability.md",
    "docs/how_to/train.md",
    "docs/tutorials/cathode_defects.md",
    "docs/tutorials/own_model.md",
)
#: whose part the distribution of tests/extensions adds
EXTENDING = ("docs/development/extending/architecture.md",)
#: where a page shows a long run, the test takes a shorter one
SHORTER = {
    "--num 50": "--num 2", "--epochs 50": "--epochs 1", "NCM811 --num 3": "NCM811 --num 1 --n-atoms 40",
    "--ordering sqs --num 5": "--ordering sqs --num 1", "ewald --num 10": "ewald --num 2",
    "--model chgnet --relax": "--model chgnet --relax --steps 2",
    "examples/structures/LiNiO2.cif --plot": "examples/structures/MgO.cif --baseline zero --plot",
    "examples/optimize_ncm.yaml": "optimize_short.yaml", "--members 4 --workers 2": "--members 2 --epochs 1",
    "train DATA --from": "train DATA --epochs 1 --from", "train runs/": "train runs/ --epochs 1",
    "train results.db": "train results.db --epochs 1", "--workers 2": "--workers 1",
}  # fmt: skip


class Block(NamedTuple):
    page: str
    marker: str  # ``needs``, ``runs`` or nothing
    why: str
    text: str


BLOCKS = [
    Block(page.relative_to(ROOT).as_posix(), marker or "", why or "", text)
    for page in PAGES
    for marker, why, text in BLOCK.findall(page.read_text(encoding="utf-8"))
]


def commands(text):
    """The words of each command in a block, without comments and what stands before a pipe or the name."""
    for line in text.replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
        lexer.whitespace_split, lexer.commenters = True, "#"
        words = []
        for word in [*lexer, "|"]:
            if word in ("|", "||", "&&", ";", "&"):
                if words:
                    yield words
                words = []
            elif words or not re.match(r"^\w+=", word):
                words.append(word)


CGCNN_ASE = [
    (block.page, words)
    for block in BLOCKS
    for words in commands(block.text)
    if words[0] == "cgcnn-ase" and block.page not in OTHERS
]


def test_pages_and_markers_are_known():
    pages = {block.page for block in BLOCKS if block.marker != "needs"}
    assert pages == {*QUICK, *LONG, *OTHERS} & {block.page for block in BLOCKS}
    for block in BLOCKS:
        assert (block.marker, block.why) in {("", ""), ("runs", "server"), *(("needs", why) for why in NEEDS)}, block


@pytest.mark.parametrize(("page", "words"), CGCNN_ASE, ids=[f"{page}: {' '.join(w)[:60]}" for page, w in CGCNN_ASE])
def test_each_command_has_the_options_that_there_are(page, words, capsys):
    from cgcnn_ase.cli.app import app

    name, *arguments = words[1:]
    command = typer.main.get_command(app).commands[name]
    assert command.make_context(name, arguments).params
    assert " now\n" not in capsys.readouterr().err  # no name of before


def test_commands_of_aiida_are_there():
    pytest.importorskip("aiida")
    from aiida_plugin.cli.app import main

    used = [words for block in BLOCKS for words in commands(block.text) if words[0] == "aiida-cgcnn"]
    assert len(used) > 4
    for words in used:
        command, context = main, None
        for word in words[1:]:
            if not hasattr(command, "list_commands"):
                break
            command = command.get_command(context, word)
            assert command is not None, words
        options = {option for parameter in command.params for option in parameter.opts}
        assert {word for word in words if word.startswith("--")} <= options, words


# Running them


def folder_of(path, weights):
    """What the pages speak of: structures under the names that they use, a data set, the original weights."""
    from ase.io import read, write

    for name in ("examples", "scripts"):
        (path / name).symlink_to(ROOT / name)
    source = ROOT / "examples" / "structures"
    for folder in ("structures", "hosts", "supercells", "experimental", "runs/one"):
        (path / folder).mkdir(parents=True)
    for name in ("LiNiO2", "MgO", "NiO"):
        shutil.copy(source / f"{name}.cif", path / "structures")
    for name in ("LiNiO2", "MgO"):
        shutil.copy(source / f"{name}.cif", path / "hosts")
        shutil.copy(source / f"{name}.cif", path)
    shutil.copy(source / "LiNiO2.cif", path / "host.cif")
    write(path / "supercells" / "MgO.cif", read(source / "MgO.cif").repeat(2))
    write(path / "runs" / "one" / "CONTCAR", read(source / "NiO.cif"), format="vasp")
    (path / "ncm811.cif").write_text(mixed())
    (path / "experimental" / "a.cif").write_text(mixed())
    for name in ("band-gap", "formation-energy-per-atom"):
        shutil.copy(weights / f"{name}.pth.tar", path)
    for name, prefix in (("DATA", "c"), ("OTHER_DATA", "c"), ("OLD", "old")):
        data_set(path / name, prefix)
    calculations(path)
    for name, network in (("average", {"architecture": "average", "n_layers": 3}), ("CONFIG", {"n_features": 16})):
        (path / f"{name}.yaml").write_text(yaml.safe_dump({"epochs": 1, "network": network}))
    settings = (ROOT / "examples" / "optimize_ncm.yaml").read_text(encoding="utf-8")
    (path / "optimize_short.yaml").write_text(re.sub(r"(?m)^(\s*)(budget|n_evaluations): *\d+", r"\1\2: 3", settings))


def mixed():
    """A layered oxide whose metals share one site, as diffraction gives it."""
    head = "data_ncm\n_cell_length_a 2.87\n_cell_length_b 2.87\n_cell_length_c 14.2\n_cell_angle_alpha 90\n"
    head += "_cell_angle_beta 90\n_cell_angle_gamma 120\n_symmetry_space_group_name_H-M 'R -3 m'\nloop_\n"
    columns = ("label", "type_symbol", "fract_x", "fract_y", "fract_z", "occupancy")
    sites = ("Li1 Li 0 0 0.5 1", "Ni1 Ni 0 0 0 0.8", "Mn1 Mn 0 0 0 0.1", "Co1 Co 0 0 0 0.1", "O1 O 0 0 0.2585 1")
    return head + "".join(f"_atom_site_{name}\n" for name in columns) + "\n".join(sites) + "\n"


def data_set(path, prefix):
    """Crystals with the columns that the pages name; the values are made up."""
    import numpy as np

    from .conftest import random_crystal

    path.mkdir()
    rng = np.random.default_rng(len(prefix))
    lines = ["id,formation_energy_per_atom,energy_per_atom,band_gap,K_VRH,is_metal"]
    for k in range(40):
        atoms = random_crystal(rng)
        atoms.write(path / f"{prefix}{k}.cif")
        value = atoms.numbers.mean() / 10 - 2
        lines.append(f"{prefix}{k},{value:.3f},{value - 3:.3f},{k / 40:.3f},{50 + k},{k % 2}")
    (path / "id_prop.csv").write_text("\n".join(lines) + "\n")


def calculations(path):
    """Finished calculations, as folders in ``runs`` and as a database; the energies are made up."""
    import numpy as np
    from ase.calculators.singlepoint import SinglePointCalculator
    from ase.db import connect

    from .conftest import random_crystal

    rng = np.random.default_rng(6)
    with connect(path / "results.db") as database:
        for k in range(40):
            atoms = random_crystal(rng)
            atoms.calc = SinglePointCalculator(atoms, energy=-0.3 * atoms.numbers.sum())
            (path / "runs" / f"c{k}").mkdir()
            atoms.write(path / "runs" / f"c{k}" / "final.extxyz")
            database.write(atoms, gap=k / 40)


def run_page(page, path, command, weights, site_packages=None):
    """Run the blocks of a page in their order, in a shell that stops at the first error."""
    folder_of(path, weights)
    if site_packages is not None:  # the command that is warm was started without what is in there
        command = path / "bin" / "cgcnn-ase"
        command.parent.mkdir()
        command.write_text(f'#!/bin/sh\nexec {sys.executable} -m cgcnn_ase.cli "$@"\n')
        command.chmod(0o755)
    env = os.environ | {
        "PATH": f"{Path(command).parent}:{Path(sys.executable).parent}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1",
        "CGCNN_ASE_CACHE": str(path / "page-cache"),
        "PYTHONPATH": str(ROOT) if site_packages is None else f"{ROOT}:{site_packages}",
    }  # fmt: skip
    servers, n_run = [], 0
    try:
        for block in (block for block in BLOCKS if block.page == page and block.marker != "needs"):
            text = block.text
            if block.marker == "runs":
                first, _, text = text.partition("\n")
                servers.append(subprocess.Popen(["bash", "-c", f"exec {first}"], cwd=path, env=env,
                                                stdout=subprocess.PIPE, text=True))  # fmt: skip
                servers[-1].stdout.readline()  # it says that it is there
            for long, short in SHORTER.items():
                text = text.replace(long, short)
            done = subprocess.run(["bash", "-euo", "pipefail", "-c", text], cwd=path, env=env, capture_output=True,
                                  text=True, timeout=900)  # fmt: skip
            assert done.returncode == 0, f"{page}:\n{text}\n{done.stdout[-2000:]}\n{done.stderr[-3000:]}"
            n_run += 1
    finally:
        for server in servers:
            server.terminate()
            server.wait()
    return n_run


@pytest.mark.parametrize("page", QUICK)
def test_quick_pages(page, tmp_path, cgcnn_ase_command, original_weights):
    assert run_page(page, tmp_path, cgcnn_ase_command, original_weights) > 0


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in LONG if page not in EXTENDING])
def test_long_pages(page, tmp_path, cgcnn_ase_command, original_weights):
    assert run_page(page, tmp_path, cgcnn_ase_command, original_weights) > 0


@pytest.mark.slow
@pytest.mark.parametrize("page", EXTENDING)
def test_pages_that_add_a_part(page, tmp_path, cgcnn_ase_command, original_weights, installed):
    assert run_page(page, tmp_path, cgcnn_ase_command, original_weights, installed) > 0
