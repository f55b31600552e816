"""The recipes of the pretrained models, and their cards."""

import json

import pytest

from cgcnn_ase import load_model
from cgcnn_ase.models.folder import CheckpointError
from cgcnn_ase.models.registry import DEFAULT_MODEL
from cgcnn_ase.training.run import train
from cgcnn_ase.zoo.card import data_sources, write_card
from cgcnn_ase.zoo.train import load_recipe, main, recipe_names


def test_the_default_model_has_a_recipe():
    assert DEFAULT_MODEL in recipe_names()


@pytest.mark.parametrize("name", recipe_names())
def test_recipes_are_valid(name):
    recipe = load_recipe(name)
    config = recipe.config
    assert len(recipe.columns) == len(recipe.targets) > 0
    assert all(target.unit for target in recipe.targets)
    assert recipe.data in data_sources()
    of_cells = recipe.data == "defects"  # a classification of what was made: the labels are right, two agree
    assert config.n_members >= 4 or config.network.architecture != "cgcnn" or (of_cells and config.n_members >= 2)
    assert config.graph.rule == "shell"  # a rule that cuts ties would depend on the order of the atoms
    assert getattr(config.network, "n_angular", 0) == 0  # decided by the graph


def test_unknown_recipe():
    with pytest.raises(ValueError, match=r"unknown recipe 'gold-price'; allowed: .*formation-energy-per-atom"):
        load_recipe("gold-price")


def test_unknown_recipe_on_the_command_line(capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["zoo", "gold-price", "--data", "."])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 2
    assert "formation-energy-per-atom" in capsys.readouterr().err


def test_the_card_has_the_measured_numbers(data, tiny, tmp_path):
    train(
        data, tiny(n_members=2, epochs=2, seed=3, mean_variance=True), tmp_path / "run", name="ionicity", progress=False
    )
    path = tmp_path / "run" / "best"
    assert write_card(path) == path / "README.md"
    card = (path / "README.md").read_text()
    test = json.loads((tmp_path / "run" / "metrics.json").read_text())["test"]
    for number in (f"{test['mae']:.4f} eV", f"{test['member_mae_mean']:.4f}", f"{test['coverage']:.1%}"):
        assert number in card
    assert f"| {test['ence']:.3f} ({test['ence_noise']:.3f}) |" in card
    low, high = test["mean_squared_z_low"], test["mean_squared_z_high"]
    assert f"| {test['mean_squared_z']:.2f} ({low:.2f} to {high:.2f}) |" in card
    assert load_model(path).sha256 in card
    assert data.train_hash in card
    assert "2 networks together predict the ionicity of a crystal" in card
    assert "(seeds 3 to 4)" in card
    assert "epochs: 2" in card
    assert "96 training, 32 validation, 24 test crystals" in card


def test_no_card_without_a_model(tmp_path):
    with pytest.raises(CheckpointError, match=r"no config\.json"):
        write_card(tmp_path)


def test_a_card_needs_figures_of_a_test_split(make_data, tiny, tmp_path):
    train(make_data(n_train=32, n_val=24, n_test=0), tiny(epochs=1), tmp_path / "run", progress=False)
    with pytest.raises(ValueError, match="no calibrated test figures"):
        write_card(tmp_path / "run" / "best")
