"""Bad input to training, and models and structures that do not fit, through the command line: each told in words."""

import json
import shutil
from dataclasses import asdict, replace

import numpy as np
import pytest
from ase import Atoms
from ase.io import write

from cgcnn_ase.core.targets import Scaler, TargetSpec
from cgcnn_ase.graphs.builder import GraphConfig
from cgcnn_ase.models.checkpoint import save_model
from cgcnn_ase.models.crystal_model import CrystalModel
from cgcnn_ase.models.folder import CONFIG, WEIGHTS, read_config, write_files
from cgcnn_ase.nn.alignn import ALIGNNConfig
from cgcnn_ase.nn.cgcnn import CGCNNConfig
from cgcnn_ase.nn.cgnn import CGNNConfig
from cgcnn_ase.nn.network import Network, NetworkConfig

GRAPH = GraphConfig(cutoff=5.0, n_neighbors=6, merge=True)
LINES = replace(GRAPH, line_graph=True)
COORDINATOR = GraphConfig(rule="coordinator", merge=True)
CGCNN = CGCNNConfig(n_features=8, n_convolutions=2, n_hidden=8, n_gaussians=8, cutoff=5.0)
ALIGNN = ALIGNNConfig(n_features=8, n_alignn=1, n_gcn=1, n_distances=8, n_cosines=6, n_embedding=8, cutoff=5.0)
CGNN = CGNNConfig(n_features=8, n_convolutions=2, n_hidden=8, n_edge_features=8, n_hidden_layers=1)
TINY = "graph: {cutoff: 5.0, n_neighbors: 6, merge: true}\nnetwork: {n_features: 8, n_convolutions: 1, n_hidden: 8}\n"


def model_folder(network, graph, folder):
    target = TargetSpec(name="ionicity", unit="eV")
    model = CrystalModel(
        [Network(NetworkConfig(architecture=network))], graph=graph, target=target, scaler=Scaler(), name=folder.name
    )
    return save_model(model, folder)


@pytest.fixture(scope="module")
def path(crystals, tmp_path_factory):
    """Structures of a data set; each test writes the table that it needs."""
    folder = tmp_path_factory.mktemp("bad-training") / "set"
    folder.mkdir()
    for k, atoms in enumerate(crystals[:24]):
        write(folder / f"c{k}.cif", atoms)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CGCNN_ASE_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield folder


@pytest.fixture
def train(path, cgcnn_ase, tmp_path):
    """``cgcnn-ase train`` with a table of targets, and with settings."""

    def run(*options, targets=None, settings=TINY, n=24, names=("ionicity",)):
        values = np.random.default_rng(0).random((n, len(names))) if targets is None else np.asarray(targets)
        rows = [",".join([f"c{k}", *map(str, row)]) for k, row in enumerate(np.reshape(values, (n, -1)).tolist())]
        (path / "id_prop.csv").write_text("\n".join([",".join(["cif_id", *names]), *rows]) + "\n")
        (tmp_path / "c.yaml").write_text(settings)
        return cgcnn_ase(
            "train", path, "--config", tmp_path / "c.yaml", "--epochs", 1, "--batch-size", 8, "--val", 0.2,
            "--output", tmp_path / "run", *options,
        )  # fmt: skip

    return run


def refused(ran, tmp_path, *words):
    assert (ran.code, ran.out) == (2, ""), ran.err
    assert len(ran.err.splitlines()) == 1 or "structures:" in ran.err.splitlines()[0], ran.err
    for word in words:
        assert word in ran.err
    assert not (tmp_path / "run").exists()


# Settings


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ("epoch: 3", ["c.yaml: unknown setting epoch; allowed: graph, network, ", "epochs"]),
        ("network: {n_feature: 8}", ["unknown setting network.n_feature; allowed: n_features, pooling"]),
        ("graph: {radius: 8}", ["unknown setting graph.radius; allowed: rule, cutoff"]),
        ("epochs: many", ["c.yaml: epochs: must be a whole number, not 'many'"]),
        ("batch_size: 6.5", ["batch_size: must be a whole number, not 6.5"]),
        ("learning_rate: [1]", ["learning_rate: must be a number, not [1]"]),
        ("network: {n_features: wide}", ["network.n_features: must be a whole number, not 'wide'"]),
        ("network: [cgcnn]", ["network: must hold settings by name, not ['cgcnn']"]),
        ("tensorboard: perhaps", ["tensorboard: must be true or false, not 'perhaps'"]),
        ("loss: l3", ["loss: must be l1 or huber or mse, not 'l3'"]),
        ("loss: [l1]", ["loss: must be l1 or huber or mse, not ['l1']"]),
        ("network: {pooling: median}", ["network.pooling: must be mean or sum or max or mean+max or softmax"]),
        (
            "network: {architecture: schnet}",
            ["network.architecture: must be cgcnn or alignn or cgnn or smooth-cgcnn, not 'schnet'"],
        ),
        (
            "network: {architecture: [cgnn]}",
            ["network.architecture: must be cgcnn or alignn or cgnn or smooth-cgcnn, not ['cgnn']"],
        ),
        ("graph: {rule: nearest}", ["graph.rule: must be "]),
        ("graph: {cutoff: -1}", ["cutoff and n_neighbors must be positive"]),
        ("network: {n_features: 0}", ["n_features must be at least 1, not 0"]),
        ("network: {dropout: 1.5}", ["dropout must be from 0 to less than 1, not 1.5"]),
        ("{network: {architecture: alignn, n_alignn: 0, n_gcn: 0}}", ["an ALIGNN needs at least one layer"]),
        ("network: {architecture: alignn}", ["alignn reads bond angles: its graph needs line_graph=True"]),
        ("network: {architecture: alignn, pooling: gated, width: 3}", ["unknown setting network.width; allowed: "]),
        ("swa_start: 1.5", ["swa_start must be a part of the training"]),
        ("3: 4", ["unknown setting 3; allowed: graph"]),
        ("- epochs", ["must hold settings by name, such as `epochs: 30`"]),
        ("epochs: [", ["c.yaml: not YAML"]),
    ],
)
def test_settings(train, tmp_path, settings, words):
    ran = train(settings=settings)
    assert (ran.code, ran.out) == (2, "")
    for word in words:
        assert word in ran.err
    assert not (tmp_path / "run").exists()


def test_a_mistake_in_an_option_is_not_blamed_on_the_file(train, tmp_path):
    refused(train("--patience", "3", "--lr", "-1"), tmp_path, "cgcnn-ase: learning_rate must be positive, not -1.0")
    refused(train("--config", "nowhere.yaml"), tmp_path, "nowhere.yaml")


# Targets


def test_a_class_that_does_not_exist(train, tmp_path, path):
    labels = np.arange(24.0) % 2
    labels[3] = 0.5
    ran = train("--task", "classification", targets=labels)
    refused(ran, tmp_path, "the target of c3, target = 0.5, is not a class; allowed: 0 to 1")
    labels[3] = -1
    ran = train("--target", "hard:classification", targets=labels, names=["hard"])
    refused(ran, tmp_path, "the target of c3, hard = -1, is not a class; allowed: 0 to 1")


def test_a_third_class_beside_a_binary_model(train, tmp_path, path):
    """Two classes are what the model to tune knows; of a new model a 2 makes it three."""
    binary = CrystalModel(
        [Network(NetworkConfig(architecture=CGCNN, n_outputs=2))],
        graph=GRAPH,
        target=TargetSpec(name="hard", unit="probability", task="classification"),
        scaler=Scaler(),
        name="binary",
    )
    folder = save_model(binary, tmp_path / "binary")
    labels = np.arange(24.0) % 2
    labels[3] = 2
    ran = train("--task", "classification", "--from", folder, targets=labels, settings="epochs: 1")
    refused(ran, tmp_path, "the target of c3, hard = 2, is not a class; allowed: 0 to 1")


def test_a_class_that_is_never_seen(train, tmp_path):
    ran = train("--task", "classification", targets=2 * (np.arange(24) % 2))
    refused(ran, tmp_path, "target: class 1 is never seen in the train split")


def test_the_logarithm_of_a_negative(train, tmp_path):
    values = np.linspace(1, 2, 24)
    values[7] = -4
    refused(train("--target", "K:log10", targets=values, names=["K"]), tmp_path, "c7, K = -4, has no logarithm")


def test_below_the_minimum(train, tmp_path):
    """A model to tune brings the limits of its target."""
    gap = TargetSpec(name="gap", unit="eV", minimum=0.0)
    model = CrystalModel(
        [Network(NetworkConfig(architecture=CGCNN))], graph=GRAPH, target=gap, scaler=Scaler(), name="gap"
    )
    folder = save_model(model, tmp_path / "gap")
    values = np.linspace(0, 2, 24)
    values[5] = -0.25
    ran = train("--from", folder, targets=values, settings="epochs: 1")
    refused(ran, tmp_path, "the target of c5, gap = -0.25, is below 0, the least possible")


def test_poolings_that_do_not_fit(train, tmp_path):
    ran = train(settings="network: {pooling: site}")
    refused(ran, tmp_path, "target is a target of crystals, the pooling 'site' gives a value for each atom")
    ran = train("--unit", "eV/atom", settings="network: {pooling: max}")
    refused(ran, tmp_path, "'max' is decided by a single atom; allowed: network.pooling: mean or softmax or gated")
    ran = train("--task", "classification", targets=np.arange(24) % 2, settings="mean_variance: true")
    refused(ran, tmp_path, "mean_variance is of regressions")


# Models


def test_a_model_to_tune_and_another_architecture(train, tmp_path):
    folder = model_folder(CGCNN, GRAPH, tmp_path / "cgcnn")
    ran = train("--from", folder, settings="network: {architecture: alignn}\n")
    refused(
        ran, tmp_path,
        "c.yaml: network.architecture: the model to tune is of the architecture cgcnn, the settings ask for alignn",
    )  # fmt: skip
    ran = train("--from", folder, settings="network: {n_features: 12}\n")
    refused(ran, tmp_path, "the model to tune has", "n_features=8", "the settings ask for", "n_features=12")
    ran = train("--from", folder, settings="graph: {cutoff: 6.0}\n")
    refused(ran, tmp_path, "the model to tune reads GraphConfig(rule='shell', cutoff=5.0")


@pytest.mark.parametrize("graph", [GRAPH, LINES], ids=["its-own-graph", "the-other's-graph"])
def test_a_folder_whose_weights_are_of_another_architecture(cgcnn_ase, cif_folder, train, tmp_path, graph):
    folder = model_folder(CGCNN, GRAPH, tmp_path / "mixed")
    config = read_config(folder)
    config["network"]["architecture"], config["graph"] = asdict(ALIGNN), asdict(graph)
    write_files(folder, {k: v for k, v in config.items() if k != "sha256"}, (folder / WEIGHTS).read_bytes())
    words = f"{folder}: not a model of this package: {WEIGHTS} is not of the alignn network in {CONFIG}: its weights"
    refused(train("--from", folder), tmp_path, words)
    ran = cgcnn_ase("predict", cif_folder(1), "--model", folder)
    assert (ran.code, ran.rows()) == (2, [])
    assert words in ran.err
    assert len(ran.err.splitlines()) == 1


def test_a_folder_of_another_size_or_graph(cgcnn_ase, cif_folder, tmp_path):
    folder = model_folder(CGCNN, GRAPH, tmp_path / "wide")
    weights, good = (folder / WEIGHTS).read_bytes(), read_config(folder)
    cifs = cif_folder(1)
    for path, changes, words in [
        (("network", "architecture"), {"n_features": 12}, "of the cgcnn network in config.json: its weights have"),
        (("graph",), {"line_graph": True}, "cgcnn reads no bond angles: it needs line_graph=False"),
        (("network", "architecture"), {"architecture": "schnet"}, "unknown architecture 'schnet'; allowed: cgcnn"),
    ]:
        config = json.loads(json.dumps({k: v for k, v in good.items() if k != "sha256"}))
        part = config
        for name in path:
            part = part[name]
        part |= changes
        write_files(folder, config, weights)
        ran = cgcnn_ase("predict", cifs, "--model", folder)
        assert (ran.code, ran.rows()) == (2, [])
        assert words in ran.err
        assert len(ran.err.splitlines()) == 1


# Structures that an architecture finds little in


def lonely(symbol="Ne"):
    """An atom that no other is within reach of: no bonds, no angles."""
    return Atoms(symbol, cell=[20.0] * 3, pbc=True)


@pytest.mark.parametrize(("batch_size", "norm"), [(1, "layer"), (8, "layer"), (8, "batch")])
def test_an_atom_without_bonds_trains_and_predicts(train, cgcnn_ase, path, tmp_path, batch_size, norm):
    text = json.dumps({"graph": asdict(LINES), "network": asdict(replace(ALIGNN, norm=norm))})
    shutil.copy(path / "c2.cif", tmp_path / "kept.cif")
    write(path / "c2.cif", lonely())
    try:
        ran = train("--batch-size", batch_size, settings=text)
    finally:
        shutil.copy(tmp_path / "kept.cif", path / "c2.cif")
    assert ran.code == 0, ran.err
    write(tmp_path / "lonely.cif", lonely())
    ran = cgcnn_ase("predict", tmp_path / "lonely.cif", path / "c1.cif", "--model", tmp_path / "run")
    assert ran.code == 0, ran.err
    assert [row["id"] for row in ran.rows()] == ["lonely", "c1"]
    assert all(np.isfinite(float(row["value"])) for row in ran.rows())


@pytest.mark.parametrize("network", [ALIGNN, CGCNN, CGNN], ids=lambda network: network.architecture)
def test_an_atom_without_bonds_is_predicted_alone(cgcnn_ase, tmp_path, network):
    graph = {"alignn": LINES, "cgcnn": GRAPH, "cgnn": COORDINATOR}[network.architecture]
    folder = model_folder(network, graph, tmp_path / "model")
    write(tmp_path / "lonely.cif", lonely())
    ran = cgcnn_ase("predict", tmp_path / "lonely.cif", "--model", folder)
    assert ran.code == 0, ran.err
    assert np.isfinite(float(ran.rows()[0]["value"]))


def test_an_element_without_a_radius(train, cgcnn_ase, path, tmp_path, crystals):
    """It costs itself alone in a prediction, and is named where it is to be learned."""
    folder = model_folder(CGNN, COORDINATOR, tmp_path / "cgnn")
    curium = crystals[1].copy()
    curium.numbers[0] = 96
    cifs = tmp_path / "cifs"
    cifs.mkdir()
    for name, atoms in (("a", crystals[0]), ("b", curium), ("c", crystals[2])):
        write(cifs / f"{name}.cif", atoms)
    ran = cgcnn_ase("predict", cifs, "--model", folder)
    assert ran.code == 1
    assert [row["id"] for row in ran.rows()] == ["a", "c"]
    *named, last = ran.err.splitlines()
    assert named == [f"{cifs / 'b.cif'}: no atomic radius is known of Cm, which the rule 'coordinator' needs"]
    assert last == "1 failed, 2 predictions written"
    shutil.copy(path / "c4.cif", tmp_path / "kept.cif")
    write(path / "c4.cif", curium)
    try:
        ran = train(settings=json.dumps({"graph": asdict(COORDINATOR), "network": asdict(CGNN)}))
    finally:
        shutil.copy(tmp_path / "kept.cif", path / "c4.cif")
    refused(ran, tmp_path, "c4: no atomic radius is known of Cm, which the rule 'coordinator' needs")


def test_a_batch_norm_and_a_batch_of_one_atom(train, path, tmp_path):
    """A norm over the batch needs more than one atom in it: it is said what to do."""
    text = json.dumps({"graph": asdict(LINES), "network": asdict(ALIGNN)})
    shutil.copy(path / "c2.cif", tmp_path / "kept.cif")
    write(path / "c2.cif", lonely())
    try:
        ran = train("--batch-size", 1, settings=text)
    finally:
        shutil.copy(tmp_path / "kept.cif", path / "c2.cif")
    assert ran.code == 2
    assert "network.norm: layer" in ran.err
