"""Settings from YAML, without pydantic: every mistake is named."""

from dataclasses import asdict

import pytest

from cgcnn_ase.core.settings import parse_settings
from cgcnn_ase.core.yaml_settings import current_names, merged, read_yaml
from cgcnn_ase.graphs.builder import GraphConfig
from cgcnn_ase.nn.alignn import ALIGNNConfig
from cgcnn_ase.nn.cgcnn import CGCNNConfig
from cgcnn_ase.training.config import TrainConfig


def test_plain_values_are_read_back(tiny):
    config = tiny(ema_decay=0.9, n_features=12, patience=3)
    assert parse_settings(TrainConfig, asdict(config)) == config
    assert parse_settings(TrainConfig, {}) == TrainConfig()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"epoch": 3}, "unknown setting epoch; allowed: graph, network, .*epochs"),
        ({"network": {"width": 3}}, "unknown setting network.width; allowed: n_features"),
        ({"epochs": 3.5}, "epochs: must be a whole number, not 3.5"),
        ({"epochs": True}, "epochs: must be a whole number, not True"),
        ({"epochs": None}, "epochs: must be a whole number, not None"),
        ({"learning_rate": "fast"}, "learning_rate: must be a number, not 'fast'"),
        ({"learning_rate": True}, "learning_rate: must be a number"),
        ({"compile": "yes"}, "compile: must be true or false, not 'yes'"),
        ({"loss": "l2"}, "loss: must be l1 or huber or mse, not 'l2'"),
        ({"graph": "knn"}, "graph: must hold settings by name, not 'knn'"),
        ({"network": {"norm": None}}, "network.norm: must be batch or layer or none, not None"),
        ({"epochs": 0}, "must be at least 1"),
        ({"learning_rate": -1}, "learning_rate must be positive"),
        ({"network": {"architecture": "alignn"}}, "alignn reads bond angles: its graph needs line_graph=True"),
        ({"graph": {"line_graph": True}}, "cgcnn reads no bond angles: it needs line_graph=False"),
        ({"network": {"architecture": "schnet"}}, "network.architecture: must be cgcnn or alignn.*, not 'schnet'"),
        ({"network": {"architecture": "alignn", "n_hidden": 3}}, "unknown setting network.n_hidden; allowed: .*n_gcn"),
        ({"network": {"architecture": "alignn", "norm": 3}}, "network.norm: must be batch or layer or none, not 3"),
        ({"network": 3}, "network: must hold settings by name, not 3"),
        ({"patience": "long"}, "patience: must be a whole number"),
    ],
)
def test_mistakes(values, message):
    with pytest.raises(ValueError, match=message):
        parse_settings(TrainConfig, values)


def test_architectures_by_tag():
    """A mapping without a tag is a CGCNN's."""
    alignn = TrainConfig(graph=GraphConfig(line_graph=True), network=ALIGNNConfig(n_features=8, n_gcn=1))
    assert parse_settings(TrainConfig, asdict(alignn)) == alignn
    small = parse_settings(TrainConfig, {"graph": {"line_graph": True}, "network": {"architecture": "alignn"}})
    assert small.network == ALIGNNConfig()
    assert parse_settings(TrainConfig, {"network": {"n_features": 12}}).network == CGCNNConfig(n_features=12)


def test_numbers_that_yaml_takes_for_text(tmp_path):
    (tmp_path / "c.yaml").write_text("learning_rate: 1e-3\nweight_decay: 0\npatience: null\n")
    config = parse_settings(TrainConfig, read_yaml(tmp_path / "c.yaml"))
    assert config.learning_rate == 1e-3
    assert repr(config.weight_decay) == "0.0"
    assert config.patience is None


@pytest.mark.parametrize("text", ["- 1\n", "just words", "a: [", ""])
def test_files_that_hold_no_settings(tmp_path, text):
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(ValueError, match=r"c\.yaml: (must hold settings|not YAML)"):
        read_yaml(tmp_path / "c.yaml")


def test_later_settings_override_earlier_ones_one_by_one():
    first, second = {"a": {"b": 1, "c": 2}, "d": 3}, {"a": {"c": 4}, "d": {"e": 5}}
    assert merged(first, second) == {"a": {"b": 1, "c": 4}, "d": {"e": 5}}
    assert first == {"a": {"b": 1, "c": 2}, "d": 3}


def test_names_of_version_1_are_read_with_a_note():
    old = {"select": "last", "trunk_rate": 0.1, "hold_norms": True, "error_folds": 2, "epochs": 3}
    with pytest.warns(UserWarning, match="the setting select is called checkpoint now"):
        config = parse_settings(TrainConfig, current_names(old))
    assert (config.checkpoint, config.backbone_lr_scale, config.cross_fit_folds) == ("last", 0.1, 2)
    assert config.freeze_batchnorm_stats
    with pytest.raises(ValueError, match="the settings select and checkpoint are the same"):
        current_names({"select": "last", "checkpoint": "best"})
