"""Every architecture learns every task through every pooling with which that makes sense; the rest is refused."""

import re
from dataclasses import replace
from functools import cache
from itertools import product
from typing import get_args

import numpy as np
import pytest

from cgcnn_ase.core.targets import TargetSpec
from cgcnn_ase.data.graph_store import build_store
from cgcnn_ase.graphs.builder import GraphConfig
from cgcnn_ase.graphs.crystal_graph import geometry
from cgcnn_ase.nn.alignn import ALIGNNConfig
from cgcnn_ase.nn.cgcnn import CGCNNConfig
from cgcnn_ase.nn.cgnn import CGNNConfig, EdgeNetworkName
from cgcnn_ase.nn.layers import Convolution
from cgcnn_ase.nn.pooling import OF_SITES, PoolingName
from cgcnn_ase.training.callbacks import read_history
from cgcnn_ase.training.config import check_targets
from cgcnn_ase.training.member import train_member
from cgcnn_ase.training.run import train

N_TRAIN, N_VAL = 48, 8
SHELL = GraphConfig(cutoff=4.0, n_neighbors=6, merge=True)
LINES = replace(SHELL, line_graph=True)
COORDINATOR = GraphConfig(rule="coordinator", merge=True)

CGCNN = CGCNNConfig(n_features=8, n_convolutions=2, n_hidden=8, n_gaussians=8, cutoff=4.0)
ALIGNN = ALIGNNConfig(n_features=8, n_alignn=1, n_gcn=1, n_distances=8, n_cosines=6, n_embedding=8, cutoff=4.0)
CGNN = CGNNConfig(n_features=8, n_convolutions=2, n_hidden=8, n_edge_features=8, cardinality=2, n_hidden_layers=1)

ARCHITECTURES = {
    **{f"cgcnn-{name}": (SHELL, replace(CGCNN, convolution=name)) for name in get_args(Convolution)},
    "alignn": (LINES, ALIGNN),
    **{f"cgnn-{name}": (COORDINATOR, replace(CGNN, edge_network=name)) for name in get_args(EdgeNetworkName)},
}

REGRESSION = TargetSpec(name="ionicity", unit="eV")
BINARY = TargetSpec(name="is_hard", unit="probability", task="classification")
CLASSES = TargetSpec(name="kind", unit="class", task="classification", n_classes=3)
SITES = TargetSpec(name="site_energy", unit="eV", level="site")

#: by name: the targets, and what the head says of its error
TASKS = {
    "regression": ((REGRESSION,), {}),
    "mean-variance": ((REGRESSION,), {"mean_variance": True}),
    "quantile": ((REGRESSION,), {"quantiles": True}),
    "binary": ((BINARY,), {}),
    "3-class": ((CLASSES,), {}),
    "multi": ((REGRESSION, CLASSES), {}),
    "site": ((SITES,), {}),
}


def makes_sense(pooling, task):
    """Whether a pooling can be read for a task, of every architecture.

    A value for each site needs the vectors of the sites, ``site`` or ``site+mean``; a value of the crystal one vector,
    from any other pooling. The targets here are no averages over atoms: see ``test_a_quantity_per_atom``.
    """
    return (pooling in OF_SITES) == (task == "site")


COMBINATIONS = list(product(ARCHITECTURES, get_args(PoolingName), TASKS))
SENSIBLE = [names for names in COMBINATIONS if makes_sense(*names[1:])]


def in_default_suite(architecture, pooling, task):
    """One task for each pair of an architecture and a pooling, such that each meets every task; the rest is slow."""
    others = [name for name in TASKS if makes_sense(pooling, name)]
    turn = list(ARCHITECTURES).index(architecture) + get_args(PoolingName).index(pooling)
    return task == others[turn % len(others)]


CASES = [
    pytest.param(*names, id="/".join(names), marks=[] if in_default_suite(*names) else [pytest.mark.slow])
    for names in SENSIBLE
]


@pytest.fixture(scope="module")
def data_for(make_data, make_crystals):
    """The data set of a task with the graphs of an architecture, each made once."""
    plain = make_data(n_train=N_TRAIN, n_val=N_VAL, n_test=0)
    shapes = [geometry(atoms) for atoms in make_crystals(len(plain.ids))[0]]
    x = plain.targets[:, 0]
    columns = {
        "ionicity": x,
        "is_hard": (x > np.median(x)).astype(float),
        "kind": np.digitize(x, np.quantile(x, [1 / 3, 2 / 3])).astype(float),
        "site_energy": np.concatenate([shape.numbers / 10 for shape in shapes]),
    }

    @cache
    def graphs(config):
        return build_store(shapes, config, workers=1)

    def make(graph, targets):
        graph = replace(graph, merge=targets[0].level == "crystal")
        values = np.column_stack([columns[target.name] for target in targets])
        return replace(plain, targets=values, graphs=graphs(graph), graph_config=graph, specs=targets)

    return make


@pytest.fixture(scope="module")
def settings(tiny):
    def make(architecture, pooling, task):
        graph, network = ARCHITECTURES[architecture]
        targets, head = TASKS[task]
        graph = replace(graph, merge=targets[0].level == "crystal")
        network = replace(network, pooling=pooling)
        return tiny(epochs=3, batch_size=12, learning_rate=1e-2), graph, network, head

    def whole(*names):
        config, graph, network, head = make(*names)
        return replace(config, graph=graph, network=network, **head)

    return whole


@pytest.mark.parametrize(("architecture", "pooling", "task"), CASES)
def test_the_loss_falls(data_for, settings, tmp_path, architecture, pooling, task):
    config = settings(architecture, pooling, task)
    data = data_for(config.graph, TASKS[task][0])
    check_targets(data.specs, config)
    train_member(data, config, tmp_path, progress=False)
    losses = [float(row["train_loss"]) for row in read_history(tmp_path / "history.csv")]
    assert len(losses) == config.epochs
    assert losses[-1] < losses[0]


REFUSED = [names for names in COMBINATIONS if not makes_sense(*names[1:])]


def test_what_makes_no_sense_is_refused(data_for, settings, tmp_path):
    """In words, for every combination that is not trained above, before anything is written."""
    assert len(SENSIBLE) + len(REFUSED) == len(COMBINATIONS) == 9 * 11 * 7
    for architecture, pooling, task in REFUSED:
        config = settings(architecture, pooling, task)
        words = (
            f"site_energy is a target of sites, which the pooling '{pooling}' puts into one vector a crystal"
            if task == "site"
            else f"{TASKS[task][0][0].name} is a target of crystals, the pooling '{pooling}' gives a value for each"
        )
        with pytest.raises(ValueError, match=re.escape(words)):
            check_targets(TASKS[task][0], config)
    for names in (("alignn", "site", "multi"), ("cgnn-fast", "max", "site")):
        config = settings(*names)
        with pytest.raises(ValueError, match="is a target of"):
            train(data_for(config.graph, TASKS[names[2]][0]), config, tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("pooling", get_args(PoolingName))
@pytest.mark.parametrize("architecture", ["cgcnn-gated", "alignn", "cgnn-fast"])
def test_a_quantity_per_atom(settings, architecture, pooling):
    """It is read from an average over atoms; a classification beside it changes nothing."""
    config = settings(architecture, pooling, "regression")
    targets = (BINARY, replace(REGRESSION, name="energy_per_atom", unit="eV/atom", per_atom=True))
    if pooling in ("mean", "softmax", "gated", "layers"):
        check_targets(targets, config)
        return
    why = {
        "sum": "'sum' grows with the cell; allowed: network.pooling: mean or softmax or gated or layers",
        "max": "'max' is decided by a single atom; allowed",
        "mean+max": "'mean+max' is decided by a single atom in part; allowed",
        "contrast": "'contrast' is decided by a single atom in part; allowed",
        "site": "is a target of crystals, the pooling 'site'",
        "site+contrast": "is a target of crystals, the pooling 'site+contrast'",
        "site+mean": "is a target of crystals, the pooling 'site+mean'",
    }[pooling]
    with pytest.raises(ValueError, match=re.escape(why)):
        check_targets(targets, config)


def test_a_quantity_per_atom_is_not_multiplied_by_the_atoms(settings):
    config = settings("cgnn-fast", "mean", "regression")
    config = replace(config, network=replace(config.network, extensive=True))
    check_targets((REGRESSION,), config)
    with pytest.raises(ValueError, match=r"ionicity is an average over atoms; network\.extensive must be false"):
        check_targets((replace(REGRESSION, per_atom=True),), config)


@pytest.mark.parametrize("head", ["mean_variance", "quantiles"])
def test_heads_that_learn_the_error_are_of_regressions(settings, head):
    config = replace(settings("cgcnn-gated", "mean", "binary"), **{head: True})
    with pytest.raises(ValueError, match=f"{head} is of regressions; is_hard, kind: the probabilities"):
        check_targets((BINARY, CLASSES), config)
    check_targets((BINARY, REGRESSION), config)
