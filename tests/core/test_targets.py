"""Targets and their scaling, fitted on the training split and on nothing else."""

from pathlib import Path

import numpy as np
import pytest
import torch
from ase.build import bulk

from cgcnn_ase.core.targets import Scaler, TargetSpec
from cgcnn_ase.data.dataset import Dataset
from cgcnn_ase.data.prepare import prepare
from cgcnn_ase.graphs import GraphConfig
from cgcnn_ase.graphs.crystal_graph import geometry


def test_the_scaler_is_fitted_on_what_it_is_given() -> None:
    targets = torch.tensor([1.0, 3.0, 5.0, 7.0])
    scaler = Scaler.fit(targets)
    assert scaler.mean == pytest.approx(4.0)
    assert scaler.std == pytest.approx(5.0**0.5)
    scaled = scaler.scale(targets)
    assert float(scaled.mean()) == pytest.approx(0.0, abs=1e-6)
    assert float(scaled.std(correction=0)) == pytest.approx(1.0)
    torch.testing.assert_close(scaler.unscale(scaled), targets)


def test_training_fits_it_on_the_training_split_alone(tmp_path: Path) -> None:
    pytest.importorskip("lightning")
    from cgcnn_ase.training.member import train_scalers

    split = np.array(["train"] * 4 + ["val", "test"])
    spec = TargetSpec(name="bulk modulus", unit="GPa", transform="log10")
    for others in (1.0, 1e9):
        targets = np.array([[1.0, 10.0, 100.0, 1000.0, others, others]]).T
        data = Dataset(list("abcdef"), [geometry(bulk("Cu"))] * 6, targets, split)
        scaler = train_scalers(prepare(data, spec, GraphConfig(), cache=tmp_path))[0]
        assert scaler.mean == pytest.approx(1.5)
        assert scaler.std == pytest.approx(1.25**0.5)


def test_equal_targets_are_only_shifted() -> None:
    assert Scaler.fit(torch.full((3,), 2.5)) == Scaler(2.5, 1.0)
    assert Scaler.fit(torch.tensor([2.5])) == Scaler(2.5, 1.0)


@pytest.mark.parametrize("targets", [[], [1.0, float("nan")], [float("inf")]])
def test_a_scaler_needs_finite_targets(targets: list[float]) -> None:
    with pytest.raises(ValueError, match="at least one target, all of them finite"):
        Scaler.fit(torch.tensor(targets))


def test_sums_of_many_single_precision_numbers_are_exact() -> None:
    targets = torch.full((1_000_000,), 1000.1, dtype=torch.float32)
    assert Scaler.fit(targets).mean == pytest.approx(float(targets[0]), rel=1e-12)


def test_log10_has_physical_units_outside() -> None:
    spec = TargetSpec(name="bulk modulus", unit="GPa", transform="log10")
    values = torch.tensor([1.0, 10.0, 250.0])
    torch.testing.assert_close(spec.forward(values), torch.tensor([0.0, 1.0, 2.39794]))
    torch.testing.assert_close(spec.inverse(spec.forward(values)), values)
    plain = TargetSpec(name="gap", unit="eV")
    assert plain.forward(values) is values
    assert plain.inverse(values) is values


def test_numbers_that_the_network_gives() -> None:
    assert TargetSpec(name="gap", unit="eV").n_outputs == 1
    assert TargetSpec(name="metal", unit="", task="classification").n_outputs == 2
    assert TargetSpec(name="kind", unit="", task="classification", n_classes=5).n_outputs == 5
