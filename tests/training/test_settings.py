"""Settings from YAML, without pydantic: every mistake is named."""

import pytest

from cgcnn_ase.training.config import TrainConfig
from cgcnn_ase.training.settings import merged, read_yaml, settings_from


def test_what_to_dict_gives_is_read_back(tiny):
    config = tiny(ema_decay=0.9, n_features=12, patience=3)
    assert settings_from(TrainConfig, config.to_dict()) == config
    assert settings_from(TrainConfig, {}) == TrainConfig()


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
        ({"patience": "long"}, "patience: must be a whole number"),
    ],
)
def test_mistakes(values, message):
    with pytest.raises(ValueError, match=message):
        settings_from(TrainConfig, values)


def test_numbers_that_yaml_takes_for_text(tmp_path):
    (tmp_path / "c.yaml").write_text("learning_rate: 1e-3\nweight_decay: 0\npatience: null\n")
    config = settings_from(TrainConfig, read_yaml(tmp_path / "c.yaml"))
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
