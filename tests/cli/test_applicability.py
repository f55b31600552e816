"""Options that have no effect beside the others, and names that could mean two things, are refused."""

import numpy as np
import pytest
import typer
from ase.build import bulk
from ase.io import write

from cgcnn_ase.cli.app import app
from cgcnn_ase.cli.options import RULES
from cgcnn_ase.models.registry import find_models
from cgcnn_ase.training import run

from ..conftest import random_crystal

ROOT = typer.main.get_command(app)
#: an option in vain, and the same beside what it belongs to; each command is parsed, none runs
CASES = {
    "defects": [
        ("--n-vacancies 2", "--num 3"), ("--seed 1", "--num 3"), ("--seed 1", "--distort"),
        ("--pair Li Ni", "--kind cation-mixing"), ("--pair-range near", "--kind cation-mixing"),
        ("--of vacancy", "--kind complex"), ("--size 3", "--kind complex"), ("--cutoff 4", "--kind complex"),
        ("--cutoff 4", "--kind cation-mixing"), ("--interstitials voronoi", "--kind interstitial"),
        ("--min-radius 1.2", "--kind all"), ("--bond-distortion -0.2", "--distort"),
        ("--dopant Mg", "--kind substitution"), ("--dopant Mg", "--kind all"),
        ("--min-radius 1.2", "--kind complex --of interstitial"),
    ],
    "screen": [
        ("--dopant Mg", "--kind substitution"), ("--fmax 0.1", "--relax --model chgnet"), ("--steps 9", "--relax"),
    ],
    "voltage": [("--fmax 0.1", "--relax"), ("--steps 9", "--relax"), ("--fixed-cell", "--relax")],
    "fetch": [
        ("--property gap=_x_gap:eV --fields band_gap", "--fields gap"),
        ("--endpoint https://a.org --provider https://b.org", "--provider oqmd"),
    ],
    "predict": [("--seed 3", "--n-dropout 5")],
    "relax": [("--resume", "--output OUT")],
    "inspect": [("--workers 2 --no-duplicates", "--model band-gap"), ("--overwrite", "--output OUT")],
    "evaluate": [("--overwrite", "--output OUT")],
    "train": [
        ("--freeze embedding", "--from band-gap"), ("--epochs-factor 2", "--from band-gap"),
        ("--cls-weight 0.5", "--task multi"), ("--cls-weight 0.5", "--target a --target b:classification"),
    ],
    "cathode": [
        ("--li-removal ewald", "--li-vacancy 0.1"), ("--model band-gap", "--ordering lowest"),
        ("--n-candidates 5", "--ordering lowest"),
    ],
}  # fmt: skip
#: an option, and what makes it have none
WITHOUT = {
    "defects": [("--diagonal", "--supercell 3"), ("--min-distance 8", "--supercell 3x3x1")],
    "screen": [("--min-distance 8", "--supercell 3")],
    "train": [
        ("--name m", "--k-fold 3"),
        ("--unit eV", "--task classification"),
        ("--val 0.2", "--k-fold 3"),
        ("--test 0.2", "--k-fold 3"),
        ("--overwrite", "--resume"),
    ],
    "finetune": [("--unit eV", "--task classification"), ("--overwrite", "--resume")],
    "optimize": [("--overwrite", "--resume")],
    "prepare": [("--unit eV", "--task classification")],
    "cathode": [("--n-atoms 50", "--supercell 2")],
}
ARGUMENTS = {
    "defects": "HOST --output OUT", "screen": "HOST --output OUT", "predict": "HOST", "inspect": "DATA",
    "relax": "HOST", "train": "DATA --output RUN", "finetune": "band-gap DATA --output RUN",
    "prepare": "DATA --output OUT", "fetch": "--output OUT", "optimize": "HOST --output OUT",
    "evaluate": "band-gap HOST", "cathode": "NCM811 --output OUT", "voltage": "FOLDER",
}  # fmt: skip


@pytest.fixture
def parse(tmp_path, monkeypatch, capsys):
    """Parse a command in a folder with a host; gives the exit code and what stderr says."""
    monkeypatch.chdir(tmp_path)
    write("HOST", bulk("MgO", "rocksalt", a=4.2), format="vasp")

    def run(command, *options):
        words = [*ARGUMENTS[command].split(), *" ".join(options).split()]
        try:
            ROOT.commands[command].make_context(command, words)
        except typer.Exit as stop:
            return stop.exit_code, capsys.readouterr().err
        return 0, capsys.readouterr().err

    return run


@pytest.fixture
def make_data(tmp_path):
    """A maker of a packed data set of 40 crystals, with or without a column ``split``."""

    def make(*, split=False):
        rng = np.random.default_rng(1)
        folder = tmp_path / ("divided" if split else "whole")
        folder.mkdir()
        crystals = [random_crystal(rng) for _ in range(40)]
        names = [f"c{k}" for k in range(40)]
        np.savez(
            folder / "structures.npz",
            ids=np.array(names),
            lattice=np.array([atoms.cell.array for atoms in crystals]),
            offsets=np.cumsum([0, *map(len, crystals)]),
            numbers=np.concatenate([atoms.numbers for atoms in crystals]),
            frac=np.concatenate([atoms.get_scaled_positions() for atoms in crystals]),
        )
        parts = [",train"] * 30 + [",val"] * 6 + [",test"] * 4 if split else [""] * 40
        rows = [f"{name},{k / 40}{part}" for k, (name, part) in enumerate(zip(names, parts, strict=True))]
        (folder / "properties.csv").write_text("\n".join([f"id,gap{',split' * split}", *rows]) + "\n")
        return folder

    return make


@pytest.mark.parametrize("command", CASES)
def test_an_option_in_vain_is_refused_and_beside_what_it_belongs_to_it_is_not(parse, command):
    for option, beside in CASES[command]:
        code, err = parse(command, option)
        assert code == 2, (command, option)
        assert f"{option.split()[0]} has no effect here: it belongs to" in err
        assert parse(command, option, beside) == (0, ""), (command, option, beside)


@pytest.mark.parametrize("command", WITHOUT)
def test_an_option_that_another_makes_vain(parse, command):
    for option, other in WITHOUT[command]:
        assert parse(command, option) == (0, ""), (command, option)
        code, err = parse(command, option, other)
        assert (code, option.split()[0] in err) == (2, True), (command, option, other)


def test_options_of_cathodes_and_of_files(parse, cgcnn_ase):
    for option in ("--num 3", "--n-atoms 50", "--li-vacancy 0.1", "--seed 7"):
        assert parse("screen", option)[0] == 2
        assert cgcnn_ase("screen", "HOST", "--output", "OUT", *option.split()).code == 2
        words = ["NCM811", "--output", "OUT", *option.split()]
        ROOT.commands["screen"].make_context("screen", words)
    code = cgcnn_ase("screen", "NCM811", "--output", "OUT", "--order-disordered")
    assert code.code == 2
    assert "--order-disordered has no effect here: it belongs to a structure file or folder" in code.err


def test_each_rule_is_of_an_option_and_has_a_case():
    for command, rules in RULES.items():
        options = {p.name: p.opts[0] for p in ROOT.commands[command].params if p.param_type_name == "option"}
        assert set(rules) <= set(options), command
        tried = {words.split()[0] for words, _ in [*CASES.get(command, []), *WITHOUT.get(command, [])]}
        of_files = {
            name for name in rules if command == "screen" and name not in ("dopant", "min_distance", "fmax", "steps")
        }
        assert {options[name] for name in set(rules) - of_files} <= tried, command


def test_workers_belong_to_several_networks(cgcnn_ase, tmp_path, make_data, monkeypatch):
    """Of settings, which may hold the number of members: nothing is built or written before.

    What two workers were given is trained here, as `tests/training/test_bare_machine.py` has real ones.
    """
    train_all, asked = run._run, []

    def train_here(jobs, prepared, workers):
        asked.append((len(jobs), workers))
        train_all(jobs, prepared, 1)

    monkeypatch.setattr(run, "_run", train_here)
    data, output = make_data(), tmp_path / "RUN"
    ran = cgcnn_ase("train", data, "--workers", "2", "--output", output)
    assert ran.code == 2
    assert "--workers 2 has no effect here: it belongs to several --members or cross_fit_folds" in ran.err
    assert not output.exists()
    (tmp_path / "two.yaml").write_text("{n_members: 2, epochs: 1, engine: torch, network: {n_features: 8}}")
    ran = cgcnn_ase("train", data, "--workers", "2", "--config", tmp_path / "two.yaml", "--output", output)
    assert ran.code == 0, ran.err
    assert asked == [(2, 2)]


@pytest.mark.parametrize("option", ["--val", "--test"])
def test_parts_of_data_that_are_divided_already(cgcnn_ase, tmp_path, make_data, option):
    column, output = make_data(split=True), tmp_path / "OUT"
    ran = cgcnn_ase("prepare", column, "--target", "gap", option, "0.2", "--output", output)
    assert ran.code == 2
    assert f"has a split of its own, so {option} would have no effect; leave it out" in ran.err
    assert not output.exists()
    ran = cgcnn_ase("prepare", column, "--target", "gap", "--output", output)
    assert ran.code == 0, ran.err


def test_an_energy_that_is_given_twice(cgcnn_ase, tmp_path):
    write(tmp_path / "Li.cif", bulk("Li"))
    for command in ("voltage", "screen"):
        output = [] if command == "voltage" else ["--output", tmp_path / "OUT"]
        ran = cgcnn_ase(command, tmp_path / "Li.cif", "--mu", "Li=-1.9", "--mu", "Li=-2", *output)
        assert ran.code == 2
        assert "--mu Li=-2: the energy of Li is given twice; give one" in ran.err


# Names


def test_the_name_of_a_cathode_never_silently_means_a_folder(cgcnn_ase, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "NCM811").mkdir()
    ran = cgcnn_ase("screen", "NCM811", "--output", "OUT")
    assert ran.code == 2
    assert "NCM811: is the name of a cathode, and there is a file or folder of that name; write ./NCM811" in ran.err
    ran = cgcnn_ase("screen", "./NCM811", "--output", "OUT")
    assert "holds no structure file" in ran.err


def test_the_name_of_a_model_never_silently_means_a_folder(small_model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "band-gap").symlink_to(small_model)
    with pytest.raises(ValueError, match=r"band-gap: is the name of a pretrained model, .* write \./band-gap"):
        find_models("band-gap")
    assert find_models("./band-gap")[0].path == find_models(tmp_path / "band-gap")[0].path.relative_to(tmp_path)
