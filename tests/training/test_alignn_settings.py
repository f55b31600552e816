"""ALIGNN's config.json: what is translated, what is refused, and what is named as unused."""

import json

import pytest

from cgcnn_ase.core.settings import parse_settings
from cgcnn_ase.training.config import TrainConfig, is_alignn, translate

#: as published with ALIGNN, without the keys that only name files
PUBLISHED = {
    "version": "112bbed", "dataset": "user_data", "target": "target", "atom_features": "cgcnn",
    "neighbor_strategy": "k-nearest", "id_tag": "jid", "random_seed": 123, "classification_threshold": None,
    "n_val": None, "n_test": None, "n_train": None, "train_ratio": 0.6, "val_ratio": 0.2, "test_ratio": 0.2,
    "epochs": 3, "batch_size": 2, "weight_decay": 1e-05, "learning_rate": 0.001, "warmup_steps": 2000,
    "criterion": "mse", "optimizer": "adamw", "scheduler": "onecycle", "num_workers": 0, "cutoff": 7.0,
    "max_neighbors": 10, "n_early_stopping": 50,
    "model": {
        "name": "alignn", "alignn_layers": 3, "gcn_layers": 2, "atom_input_features": 92, "edge_input_features": 60,
        "triplet_input_features": 30, "embedding_features": 32, "hidden_features": 128, "output_features": 1,
        "link": "identity", "zero_inflated": False, "classification": False,
    },
}  # fmt: skip


def changed(**changes):
    model = PUBLISHED["model"] | changes.pop("model", {})
    return PUBLISHED | changes | {"model": model}


def test_a_published_file():
    wanted = translate(PUBLISHED)
    config = parse_settings(TrainConfig, wanted.settings)
    assert (config.epochs, config.batch_size, config.learning_rate, config.weight_decay) == (3, 2, 1e-3, 1e-5)
    assert (config.seed, config.loss, config.patience, config.gradient_clip) == (123, "mse", 50, None)
    graph, network = config.graph, config.network
    assert (graph.rule, graph.cutoff, graph.n_neighbors, graph.line_graph) == ("shell", 7.0, 10, True)
    assert network.architecture == "alignn"
    assert (network.n_alignn, network.n_gcn, network.n_features, network.norm) == (3, 2, 128, "batch")
    assert (network.n_distances, network.n_cosines, network.n_embedding, network.cutoff) == (60, 30, 32, 8.0)
    assert (wanted.val, wanted.test) == (0.2, 0.2)
    assert wanted.unused == ["version", "dataset", "target", "id_tag", "warmup_steps", "num_workers"]
    assert "train_ratio" in translate(changed(train_ratio=0.5)).unused


def test_silence_is_the_default_of_alignn():
    wanted = translate({"model": {"name": "alignn"}})
    config = parse_settings(TrainConfig, wanted.settings)
    assert (config.epochs, config.batch_size, config.learning_rate, config.loss) == (300, 64, 1e-2, "mse")
    assert (config.network.n_features, config.network.n_alignn, wanted.val) == (256, 4, 0.1)


def test_the_atomwise_network_has_layer_norms_and_an_absolute_loss():
    model = {"name": "alignn_atomwise", "calculate_gradient": False, "gradwise_weight": 1.0, "lg_on_fly": True}
    wanted = translate(changed(model=model))
    assert wanted.settings["network"]["norm"] == "layer"
    assert wanted.settings["loss"] == "l1"
    assert wanted.unused[-2:] == ["model.gradwise_weight", "model.lg_on_fly"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": {"name": "icgcnn"}}, "model.name: must be alignn or alignn_layernorm or alignn_atomwise"),
        ({"model": {"name": "alignn_atomwise"}}, "model.calculate_gradient: must be False, not True: forces"),
        ({"model": {"classification": True}}, "model.classification: must be False, not True: write the classes"),
        ({"model": {"output_features": 66}}, "model.output_features: must be 1, not 66"),
        ({"optimizer": "sgd"}, "optimizer: must be adamw, not 'sgd'"),
        ({"scheduler": "none"}, "scheduler: must be onecycle"),
        ({"criterion": "zig"}, "criterion: must be l1 or mse"),
        ({"neighbor_strategy": "voronoi"}, "neighbor_strategy: must be k-nearest"),
        ({"atom_features": "cfid"}, "atom_features: must be cgcnn"),
        ({"classification_threshold": 0.1}, "classification_threshold: must be null"),
        ({"n_train": 100}, "n_train: the split is by parts here"),
        ({"val_ratio": "some"}, "val_ratio: must be a number"),
    ],
)
def test_what_would_be_something_else_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        translate(changed(**changes))


def test_ours_are_not_taken_for_theirs():
    assert is_alignn(PUBLISHED)
    assert not is_alignn({"network": {"architecture": "alignn"}})
    assert not is_alignn({"model": "alignn"})


def test_the_command_names_the_file_and_what_is_unused(make_crystals, tmp_path, cgcnn_ase):
    structures, targets = make_crystals(20)
    (tmp_path / "DIR").mkdir()
    rows = []
    for k, (atoms, target) in enumerate(zip(structures, targets, strict=True)):
        atoms.write(tmp_path / "DIR" / f"POSCAR-{k}.vasp", format="vasp")
        rows.append(f"POSCAR-{k}.vasp,{target}")
    (tmp_path / "DIR" / "id_prop.csv").write_text("\n".join(rows) + "\n")
    file = tmp_path / "config.json"
    file.write_text(json.dumps(changed(optimizer="sgd")))
    ran = cgcnn_ase("train", tmp_path / "DIR", "--config", file, "--output", tmp_path / "RUN")
    assert ran.code == 2
    assert f"{file}: optimizer: must be adamw" in ran.err
    file.write_text(json.dumps(changed(epochs=1, model={"hidden_features": 8, "embedding_features": 8})))
    ran = cgcnn_ase("train", tmp_path / "DIR", "--config", file, "--test", "0.3", "--output", tmp_path / "RUN")
    assert ran.code == 0, ran.err
    assert f"{file}: settings of ALIGNN; without meaning here: version, dataset, target" in ran.err
    assert (tmp_path / "RUN" / "test_results.csv").exists()
