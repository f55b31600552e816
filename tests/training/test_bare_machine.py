"""Training where only torch, numpy, pandas and lightning are installed; the model is assembled where the rest is."""

import os
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from cgcnn_ase import load_model
from cgcnn_ase.training.run import train

REPOSITORY = Path(__file__).resolve().parents[2]
ALLOWED = ("torch", "numpy", "pandas", "lightning")
FORBIDDEN = (
    "pydantic", "ase", "pymatgen", "dgl", "gemmi", "safetensors", "scipy", "typer", "joblib", "matplotlib",
)  # fmt: skip


def with_requirements(names: tuple[str, ...]) -> Iterator[str]:
    """These distributions and all that they ask for."""
    todo, seen = list(names), set()
    while todo:
        name = todo.pop().lower().replace("_", "-")
        if name in seen:
            continue
        seen.add(name)
        try:
            requirements = distribution(name).requires or []
        except PackageNotFoundError:
            continue
        yield name
        for line in requirements:
            needed = Requirement(line)
            if needed.marker is None or needed.marker.evaluate({"extra": ""}):
                todo += [needed.name, *(f"{extra}" for extra in needed.extras)]


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """An environment in which Python finds those packages, ours, and no others: a folder of links."""
    folder = tmp_path_factory.mktemp("site-packages")
    for name in with_requirements(ALLOWED):
        result = distribution(name)
        for top in {file.parts[0] for file in result.files or () if file.parts[0] not in ("..", "__pycache__")}:
            if not (folder / top).exists():
                (folder / top).symlink_to(str(result.locate_file(top)))
    (folder / "cgcnn_ase").symlink_to(REPOSITORY / "cgcnn_ase")
    return {**os.environ, "PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}


def python(bare: dict[str, str], *arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Python without its own site-packages."""
    return subprocess.run([sys.executable, "-S", *arguments], env=bare, cwd=cwd, capture_output=True, text=True)


def test_the_environment_is_bare(bare):
    result = python(bare, "-c", f"from importlib.util import find_spec as f; print([f(n) for n in {FORBIDDEN}])")
    assert result.stdout.strip() == str([None] * len(FORBIDDEN))


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.long)])
def test_train_there_and_assemble_here(data, tiny, bare, tmp_path, differing, cgcnn_ase, workers):
    data.save(tmp_path / "prepared")
    (tmp_path / "config.yaml").write_text(
        "n_members: 2\nepochs: 2\nbatch_size: 16\n"  # engine: auto, and no DGL there
        "network: {n_features: 8, n_convolutions: 2, n_hidden: 8, n_gaussians: 8, cutoff: 5.0}\n"
    )
    command = ["-m", "cgcnn_ase.training", "prepared", "--config", "config.yaml", "--output", "run"]
    there = python(bare, *command, "--workers", str(workers), cwd=tmp_path)
    assert there.returncode == 0, there.stderr
    assert there.stdout == "run\n"
    (line,) = [line for line in there.stderr.splitlines() if line.startswith("warning: ")]
    assert "the networks are trained" in line
    assert "pydantic and safetensors and scipy and scikit-learn are not installed here" in line
    assert "cgcnn-ase train" in line
    assert "--resume" in line
    assert not (tmp_path / "run" / "best").exists()
    assert [(tmp_path / "run" / f"member-{k}" / "finished").exists() for k in range(2)] == [True, True]

    before = [(tmp_path / "run" / f"member-{k}" / "last.ckpt").read_bytes() for k in range(2)]
    here = cgcnn_ase(
        "train", tmp_path / "prepared", "--config", tmp_path / "config.yaml", "--output", tmp_path / "run", "--resume"
    )
    assert here.code == 0, here.err
    assert [(tmp_path / "run" / f"member-{k}" / "last.ckpt").read_bytes() for k in range(2)] == before
    model = load_model(tmp_path / "run")
    assert len(model.networks) == 2
    assert model.calibration is not None
    for name in ("metrics.json", "test_results.csv", "parity.png", "learning_curve.png"):
        assert (tmp_path / "run" / name).exists()

    config = tiny(n_members=2, epochs=2, engine="torch", learning_rate=2e-3)
    train(data, config, tmp_path / "all-here", progress=False)
    assert not differing(tmp_path / "run/member-1/last.ckpt", tmp_path / "all-here/member-1/last.ckpt")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ("epoch: 3", "unknown setting epoch; allowed: graph, network"),
        ("network: {width: 3}", "unknown setting network.width; allowed: n_features"),
        ("epochs: many", "epochs: must be a whole number, not 'many'"),
    ],
)
def test_mistakes_in_the_settings(data, tmp_path, capsys, settings, message):
    from cgcnn_ase.training.__main__ import main

    data.save(tmp_path / "prepared")
    (tmp_path / "c.yaml").write_text(settings)
    run = ["--output", str(tmp_path / "run"), "--config", str(tmp_path / "c.yaml")]
    assert main([str(tmp_path / "prepared"), *run]) == 2
    assert message in capsys.readouterr().err
    assert main([str(tmp_path), *run]) == 2
    assert "not a folder that `cgcnn-ase prepare` wrote" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_dgl_that_cannot_be_imported_is_no_dgl(tmp_path):
    """As DGL 2.1 beside a newer torch: installed, and its libraries do not load. It is tried once.

    Each error is raised in a fork of one process, which has imported torch.
    """
    (tmp_path / "dgl.py").write_text(
        "import builtins, os\nprint('tried', os.environ['ERROR'], flush=True)\n"
        "raise getattr(builtins, os.environ['ERROR'])('libgraphbolt_pytorch_2.13.0.so')\n"
    )
    errors = ["ImportError", "FileNotFoundError", "RuntimeError"]
    code = (
        "import os\n"
        "import torch\nfrom ase.build import bulk\nfrom cgcnn_ase.graphs.builder import GraphConfig, build_graph\n"
        "from cgcnn_ase.nn.messages import build_edges\n"
        "graph = build_graph(bulk('Cu'), GraphConfig())\n"
        "build_edges(graph, 'torch')\nprint('torch', flush=True)\n"
        f"for error in {errors}:\n"
        "    if (child := os.fork()) == 0:\n"
        "        os.environ['ERROR'] = error\n"
        "        print(build_edges(graph).dgl_graph, build_edges(graph).dgl_graph, flush=True)\n"
        "        os._exit(0)\n"
        "    assert os.waitpid(child, 0)[1] == 0, error\n"
    )
    env = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{REPOSITORY}"}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["torch", *(line for e in errors for line in (f"tried {e}", "None None"))]
