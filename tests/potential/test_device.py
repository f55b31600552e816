"""Where a potential is evaluated."""

from copy import deepcopy

import pytest
import torch
from ase.build import bulk

from cgcnn_ase import load_model
from cgcnn_ase.graphs.crystal_graph import geometry, to_device
from cgcnn_ase.nn import messages
from cgcnn_ase.nn.smooth import SmoothCGCNN
from cgcnn_ase.potential.potential import NeighborList, Potential
from cgcnn_ase.potential.relax import relax


@pytest.mark.parametrize("device", ["cuda:99", "tpu", "gpu"])
def test_a_device_that_is_not_there_is_named_with_those_that_are(device: str) -> None:
    with pytest.raises(ValueError, match=rf"device '{device}': allowed here are cpu, auto"):
        relax(bulk("MgO", "rocksalt", a=4.21), device=device)


def test_all_tensors_stay_on_the_device_of_the_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    """Torch's meta device refuses, as a GPU does, to mix its tensors with those of the CPU."""
    potential = Potential(load_model("cathode-potential"))
    graph = NeighborList(potential.cutoff).graph(geometry(bulk("MgO", "rocksalt", a=4.21)))
    slots, expected = SmoothCGCNN.slots(graph), [each.shape for each in potential._tensors(graph)]
    # what is read from the numbers in a tensor, of which there are none
    monkeypatch.setattr(
        SmoothCGCNN, "slots", staticmethod(lambda moved: slots._replace(places=slots.places.to(moved.centers.device)))
    )
    monkeypatch.setattr(messages, "has_multiplicity", lambda multiplicity: False)
    potential.networks = [deepcopy(each).to("meta") for each in potential.networks]
    results = potential._tensors(to_device(graph, "meta"))
    assert {each.device.type for each in results} == {"meta"}
    assert [each.shape for each in results] == expected
    with pytest.raises(RuntimeError, match="device"):
        potential._tensors(to_device(graph, "meta")._replace(volumes=graph.volumes))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU on this machine")
def test_a_gpu_finds_the_same_minimum() -> None:
    rattled = [bulk("MgO", "rocksalt", a=4.1, cubic=True) for _ in range(3)]
    for k, atoms in enumerate(rattled):
        atoms.rattle(0.05, seed=k)
    on_cpu, on_gpu = (relax(rattled, device=device, workers=1).all for device in ("cpu", "cuda"))
    for a, b in zip(on_cpu, on_gpu, strict=True):
        assert a.converged
        assert b.converged
        assert b.energy == pytest.approx(a.energy, abs=1e-3)
