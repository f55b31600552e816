"""The page for those who come from the older projects: every command, settings file and piece of Python on it."""

import csv
import json
import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest

from .conftest import random_crystal
from .data.test_cgnn_folder import write_cgnn_folder

PAGE = Path(__file__).resolve().parents[1] / "docs" / "how_to" / "coming_from.md"
FENCES = re.findall(r"^```(\w+)\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
COMMANDS = [line for kind, text in FENCES if kind == "bash" for line in text.splitlines() if not line.startswith("#")]
N = 40

#: ALIGNN's own keys, of a network that trains in a second
ALIGNN = {
    "version": "112bbed", "dataset": "user_data", "target": "target", "atom_features": "cgcnn", "id_tag": "jid",
    "neighbor_strategy": "k-nearest", "random_seed": 123, "n_train": None, "n_val": None, "n_test": None,
    "train_ratio": 0.8, "val_ratio": 0.1, "test_ratio": 0.1, "epochs": 2, "batch_size": 16, "weight_decay": 1e-05,
    "learning_rate": 0.001, "criterion": "mse", "optimizer": "adamw", "scheduler": "onecycle", "cutoff": 8.0,
    "max_neighbors": 12, "output_dir": "temp",
    "model": {"name": "alignn", "alignn_layers": 1, "gcn_layers": 1, "hidden_features": 16, "embedding_features": 8},
}  # fmt: skip


@pytest.fixture(scope="module")
def structures():
    rng = np.random.default_rng(11)
    return [random_crystal(rng) for _ in range(N)]


def write_set(folder, structures, rows, head=None, *, file="c{}.cif", name="c{}"):
    """A data set folder; `rows` are the cells after the id."""
    folder.mkdir()
    for k, atoms in enumerate(structures):
        atoms.write(folder / file.format(k))
    lines = ([] if head is None else [head]) + [f"{name.format(k)},{row}" for k, row in enumerate(rows)]
    (folder / "id_prop.csv").write_text("\n".join(lines) + "\n")


@pytest.fixture(scope="module")
def path(structures, original_weights, tmp_path_factory):
    """The folder in which the page's commands are typed."""
    folder = tmp_path_factory.mktemp("page")
    energies = [f"{s.numbers.mean() / 10 - 2:.3f}" for s in structures]
    labels = [str(k % 2) for k in range(N)]
    write_set(folder / "DIR", structures, energies)
    (folder / "DIR" / "atom_init.json").write_text("{}")
    write_set(folder / "CLASSES", structures, labels)
    write_set(folder / "SUPERCELLS", structures, labels)
    both = [f"{e},{c}" for e, c in zip(energies, labels, strict=True)]
    write_set(folder / "vacancy_data", structures, both, "cif_id,formation_energy,defect_label")
    names = {"file": "POSCAR-JVASP-{}.vasp", "name": "POSCAR-JVASP-{}.vasp"}
    write_set(folder / "sample_data", structures, energies, **names)
    shutil.copy(folder / "sample_data" / "POSCAR-JVASP-10.vasp", folder)
    (folder / "config.json").write_text(json.dumps(ALIGNN))
    targets = {"formation_energy_per_atom": energies, "band_gap": [k / N for k in range(N)]}
    split = {"train": list(range(24)), "val": list(range(24, 32)), "test": list(range(32, N))}
    write_cgnn_folder(folder / "OQMD", structures, targets, split)
    for file in original_weights.glob("*.pth.tar"):
        shutil.copy(file, folder)
    shutil.copy(PAGE.parents[2] / "examples" / "structures" / "LiNiO2.cif", folder / "HOST.cif")
    for kind, text in FENCES:
        if kind in ("yaml", "py"):
            (folder / text.splitlines()[0].removeprefix("# ")).write_text(text)
    return folder


@pytest.fixture(autouse=True)
def _there(path, monkeypatch):
    monkeypatch.chdir(path)
    monkeypatch.setenv("CGCNN_ASE_CACHE", str(path.with_name("page-cache")))


def test_the_page_has_commands_of_each_project():
    assert len(COMMANDS) > 20
    assert all(line.startswith("cgcnn-ase ") for line in COMMANDS)
    assert {line.split()[1] for line in COMMANDS} == {"models", "predict", "evaluate", "train", "defects", "optimize"}
    assert PAGE.read_text().count("\ncgcnn-ase ") == len(COMMANDS)


@pytest.mark.parametrize("line", COMMANDS)
def test_a_command(line, cgcnn_ase):
    """In the order of the page: later ones use what earlier ones wrote."""
    command = shlex.split(line)[1:]
    ran = cgcnn_ase(*command)
    assert ran.code == 0, f"{line}\n{ran.err}"
    output = Path(command[command.index("--output") + 1]) if "--output" in command else None
    if command[0] == "train":
        assert all((output / name).exists() for name in ("best", "config.yaml", "metrics.json", "last.ckpt"))
        for folder in (output / "formation_energy", output / "defect_label") if output.name == "MULTI" else (output,):
            with (folder / "test_results.csv").open(newline="") as file:
                assert next(csv.reader(file))[:3] == ["id", "target", "prediction"]
    elif command[0] == "evaluate":
        assert np.isfinite(json.loads((output / "metrics.json").read_text())["mae"])
        assert (output / "results.csv").exists()
    elif command[0] == "optimize":
        assert len(list(csv.DictReader((output / "log.csv").open(newline="")))) == 5
        assert (output / "convergence.png").exists()
    elif command[0] == "defects":
        rows = list(csv.DictReader((output / "manifest.csv").open(newline="")))
        assert [row["removed"] for row in rows] == ["Li"] * (3 if "--num" in command else 1)
        assert len(list(output.glob("*.extxyz"))) == len(rows)
    elif output is not None:
        rows = list(csv.DictReader(output.open(newline="")))
        assert len(rows) == {"both.csv": 2 * N, "vacancies.csv": 3}.get(output.name, N)
        assert all(np.isfinite(float(row["value"])) for row in rows)


def test_the_python():
    (code,) = [text for kind, text in FENCES if kind == "python"]
    names: dict[str, object] = {}
    exec(compile(code, str(PAGE), "exec"), names)
    assert len(names["table"]) == N


def test_three_columns_without_a_header(structures, cgcnn_ase, tmp_path):
    write_set(tmp_path / "set", structures, [f"{k / N},{k % 2}" for k in range(N)])
    ran = cgcnn_ase(
        "train", tmp_path / "set", "--task", "multi", "--cls-weight", "0.5", "--epochs", "1", "--output",
        tmp_path / "RUN", "--json",
    )  # fmt: skip
    assert ran.code == 0, ran.err
    result = json.loads(ran.out)
    assert "mae" in result["target"]["test"]
    assert "accuracy" in result["label"]["test"]
