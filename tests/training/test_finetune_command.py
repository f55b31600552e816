"""Fine-tuning on the command line: from any model, for another property, for several, and of any architecture."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import yaml
from ase.io import write

from cgcnn_ase import load_model
from cgcnn_ase.core.targets import Scaler, TargetSpec, output_slices
from cgcnn_ase.graphs.builder import GraphConfig
from cgcnn_ase.models.checkpoint import load_models, save_model, save_models
from cgcnn_ase.models.crystal_model import CrystalModel
from cgcnn_ase.nn.alignn import ALIGNNConfig
from cgcnn_ase.nn.cgcnn import CGCNNConfig
from cgcnn_ase.nn.cgnn import CGNNConfig
from cgcnn_ase.nn.network import Network, NetworkConfig
from cgcnn_ase.training.start_model import finetune_member

SHELL = GraphConfig(cutoff=5.0, n_neighbors=6, merge=True)
NETWORKS = {
    "cgcnn": (SHELL, CGCNNConfig(n_features=8, n_convolutions=2, n_hidden=8, n_gaussians=8, convolution="edge-gated")),
    "alignn": (
        replace(SHELL, line_graph=True),
        ALIGNNConfig(n_features=8, n_alignn=1, n_gcn=1, n_distances=8, n_cosines=6, n_embedding=8),
    ),
    "cgnn": (GraphConfig(rule="coordinator", merge=True), CGNNConfig(n_features=8, n_hidden=8, n_edge_features=8)),
}
FORMATION = TargetSpec(name="formation_energy_per_atom", unit="eV/atom", per_atom=True)
#: parameters of the embeddings and of the convolutions, by the first part of their names
EMBEDDINGS = ("embedding", "edge_embedding", "atom_embedding", "bond_embedding", "angle_embedding")
CONVOLUTIONS = ("convolutions", "alignn_layers", "gcn_layers")


@pytest.fixture(scope="module")
def path(make_crystals, tmp_path_factory):
    """A data set with four properties, one of them with missing labels."""
    folder = tmp_path_factory.mktemp("finetune") / "set"
    folder.mkdir()
    structures, targets = make_crystals(40)
    gaps = [max(0.0, t - 1.5) for t in targets]
    lines = ["cif_id,energy,gap,fermi,is_metal"]
    for k, (atoms, e, gap) in enumerate(zip(structures, targets, gaps, strict=True)):
        write(folder / f"c{k}.cif", atoms)
        lines.append(f"c{k},{e!r},{gap},{e / 2 if k % 5 else ''},{k % 2}")
    (folder / "id_prop.csv").write_text("\n".join(lines) + "\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CGCNN_ASE_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield folder


@pytest.fixture(scope="module", params=NETWORKS)
def base(request, tmp_path_factory):
    """The folder of an ensemble of two, of each architecture, with a head that knows its error."""
    graph, network = NETWORKS[request.param]
    torch.manual_seed(0)
    config = NetworkConfig(architecture=network, mean_variance=True)
    members = [Network(config) for _ in range(2)]
    model = CrystalModel(members, graph=graph, target=FORMATION, scaler=Scaler(-1.0, 2.0), name="base")
    return save_model(model, tmp_path_factory.mktemp("base") / request.param)


@pytest.fixture
def tune(path, cgcnn_ase, tmp_path):
    """``cgcnn-ase train --from``, for an epoch."""

    def run(model, *options, settings="engine: torch\n"):
        (tmp_path / "c.yaml").write_text(settings)
        ran = cgcnn_ase(
            "train", path, "--from", model, "--epochs", 1, "--batch-size", 8, "--val", 0.25, "--config",
            tmp_path / "c.yaml", "--output", tmp_path / "run", *options,
        )  # fmt: skip
        assert ran.code == 0, ran.err
        return load_models(tmp_path / "run" / "best")

    return run


def part_of(name):
    part = name.removeprefix("architecture.").split(".")[0]
    return "embedding" if part in EMBEDDINGS else "convolutions" if part in CONVOLUTIONS else "rest"


def moved(before, after):
    """How far the weights of each part went at most."""
    far = {"embedding": 0.0, "convolutions": 0.0, "rest": 0.0}
    old, new = before.state_dict(), after.state_dict()
    for name in old.keys() & new.keys():
        if old[name].shape == new[name].shape and old[name].is_floating_point():
            far[part_of(name)] = max(far[part_of(name)], float((old[name] - new[name]).abs().max()))
    return far


def reading_layers(config):
    """The network that learns another property from few labels."""
    pooling = "layers" if config.architecture.pooling == "mean" else config.architecture.pooling
    return replace(config, architecture=replace(config.architecture, pooling=pooling))


def fast_of(name):
    """Slow but for one architecture; ``test_another_property`` is of each."""
    slow = [pytest.param(other, marks=[] if other == name else [pytest.mark.slow]) for other in NETWORKS]
    return pytest.mark.parametrize("base", slow, indirect=True, scope="module")


def test_another_property(base, tune, tmp_path):
    """The network, its graph, its number and its kind of head come from the model; head and scaler are new.

    With few labels it reads all layers, unless its own pooling is more than a mean.
    """
    start = load_model(base)
    (model,) = tune(base, "--target", "energy", "--unit", "eV", "--freeze", "convolutions")
    assert model.networks[0].config == reading_layers(start.networks[0].config)
    assert (model.graph, len(model.members)) == (start.graph, 2)
    assert (model.target.name, model.target.unit) == ("energy", "eV")
    assert model.scaler != start.scaler
    for old, new in zip(start.networks, model.networks, strict=True):
        far = moved(old, new)
        assert far["embedding"] == far["convolutions"] == 0.0
        assert far["rest"] > 0.0


@fast_of("cgcnn")
def test_several_properties(base, tune):
    start = load_model(base)
    models = tune(base, "--task", "multi", "--members", 1, "--freeze", "embedding")
    assert [model.target.name for model in models] == ["energy", "gap", "fermi", "is_metal"]
    network = models[0].networks[0]
    assert network.config == reading_layers(replace(start.networks[0].config, n_outputs=5))
    far = moved(start.networks[0], network)
    assert far["embedding"] == 0.0 < far["convolutions"]


@fast_of("alignn")
def test_a_classification(base, tune):
    """A head that learns its error is a regression's."""
    (model,) = tune(base, "--target", "is_metal:classification", "--members", 1)
    assert model.target.task == "classification"
    assert not model.networks[0].config.mean_variance


@fast_of("cgnn")
def test_a_slower_trunk(base, tune, tmp_path):
    start = load_model(base)
    text = "engine: torch\ntrunk_rate: 1e-6\nlearning_rate: 1e-2\nweight_decay: 0\n"
    (model,) = tune(base, "--target", "energy", "--members", 1, "--freeze", "none", settings=text)
    parameters = [dict(network.named_parameters()) for network in (start.networks[0], model.networks[0])]
    far = {"embedding": 0.0, "convolutions": 0.0, "rest": 0.0}
    for name, old in parameters[0].items():
        if not name.startswith("head.") and old.shape == parameters[1][name].shape:
            far[part_of(name)] = max(far[part_of(name)], float((old - parameters[1][name]).detach().abs().max()))
    assert 0.0 < max(far["embedding"], far["convolutions"]) < 1e-6
    if start.networks[0].config.architecture.architecture == "cgnn":  # the others' rest is new or none
        assert far["rest"] > 1e-4
    assert yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())["backbone_lr_scale"] == 1e-6


ORIGINAL = {
    "formation-energy-per-atom": ["--target", "gap"],
    "bulk-moduli": ["--target", "energy", "--unit", "eV/atom"],
    "semi-metal-classification": ["--target", "gap"],
    "band-gap": ["--task", "multi"],
}


@pytest.mark.parametrize("name", ORIGINAL)
def test_from_an_original_file(original_weights, tune, name):
    start = load_model(original_weights / f"{name}.pth.tar")
    models = tune(original_weights / f"{name}.pth.tar", *ORIGINAL[name], "--freeze", "convolutions")
    network = models[0].networks[0]
    assert network.config.architecture == reading_layers(start.networks[0].config).architecture
    assert models[0].graph == start.graph
    assert network.config.n_outputs == (5 if name == "band-gap" else 1)
    far = moved(start.networks[0], network)
    assert far["embedding"] == far["convolutions"] == 0.0


def test_an_original_classifier_for_classes(original_weights, tune):
    file = original_weights / "semi-metal-classification.pth.tar"
    (model,) = tune(file, "--target", "is_metal:classification")
    assert model.target.n_classes == 2
    assert model.target.name == "is_metal"


# One of several models that share their networks


@pytest.fixture(scope="module")
def several(tmp_path_factory):
    """Three targets of one network, with quantiles."""
    graph, architecture = NETWORKS["cgcnn"]
    targets = (
        TargetSpec(name="energy", unit="eV"),
        TargetSpec(name="kind", unit="class", task="classification", n_classes=3),
        TargetSpec(name="gap", unit="eV", minimum=0.0),
    )
    torch.manual_seed(0)
    members = torch.nn.ModuleList(
        [Network(NetworkConfig(architecture=architecture, n_outputs=5, quantiles=True)).eval()]
    )
    models = [
        CrystalModel(
            members, graph=graph, target=target, scaler=Scaler(k, 1.0 + k), name=target.name,
            first_output=columns.start,
        )
        for k, (target, columns) in enumerate(zip(targets, output_slices(targets), strict=True))
    ]  # fmt: skip
    return save_models(models, tmp_path_factory.mktemp("several") / "several", name="several")


def test_the_head_of_one_of_several(several, crystals):
    """What it says before it learns on is what it said among the others."""
    from cgcnn_ase.graphs.builder import build_graphs

    for model in load_models(several):
        graph = build_graphs(crystals[:6], model.graph)
        member = finetune_member(model, 0).eval()
        with torch.no_grad():
            expected, result = model.networks[0](graph).of(model.outputs), member(graph)
        assert member.config.n_outputs == model.target.n_outputs
        for one, other in zip(expected, result, strict=True):
            torch.testing.assert_close(one, other)


def test_one_of_several_learns_on(several, tune, monkeypatch, tmp_path):
    """It keeps its own head, scaler and limits."""
    from cgcnn_ase.models import registry

    (tmp_path / "zoo").mkdir()
    (tmp_path / "zoo" / "several").symlink_to(several)
    monkeypatch.setattr(registry, "pretrained_folder", lambda: tmp_path / "zoo")
    start = load_model("gap")
    (model,) = tune("gap", "--target", "gap", "--freeze", "convolutions", "--lr", 1e-9)
    assert (model.scaler, model.target) == (start.scaler, start.target)
    assert model.networks[0].config.n_outputs == 1
    np.testing.assert_allclose(
        model.networks[0].head.out.weight.detach(), start.networks[0].head.out.weight.detach()[4:5], atol=1e-6
    )
