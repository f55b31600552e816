"""Real GPAW: the label of a job against GPAW called here, a Li vacancy cell, and a restart."""

import sys
import warnings

import numpy as np
import pytest

aiida = pytest.importorskip("aiida", reason="aiida-core is an optional extra")
gpaw = pytest.importorskip("gpaw", reason="GPAW is an optional extra")

from aiida import orm  # noqa: E402
from aiida.engine import run_get_node  # noqa: E402
from aiida.plugins import CalculationFactory, DataFactory, WorkflowFactory  # noqa: E402
from ase.build import bulk, niggli_reduce  # noqa: E402
from ase.spacegroup import crystal  # noqa: E402

from aiida_plugin.data.label_scheme import scheme_of  # noqa: E402
from aiida_plugin.engines.gpaw import gpaw_parameters, mesh  # noqa: E402
from aiida_plugin.engines.protocol import resolve  # noqa: E402


@pytest.fixture(autouse=True)
def _profile(aiida_profile):
    return aiida_profile


@pytest.fixture
def code(aiida_code_installed):
    return aiida_code_installed(default_calc_job_plugin="cgcnn.ase_dft", filepath_executable=sys.executable)


def linio2():
    """The primitive cell of layered LiNiO2, R-3m, a = 2.88 Å, c = 14.2 Å, in its most compact form."""
    atoms = crystal(
        ["Li", "Ni", "O"], [(0, 0, 0.5), (0, 0, 0), (0, 0, 0.2585)], spacegroup=166,
        cellpar=[2.88, 2.88, 14.2, 90, 90, 120], primitive_cell=True,
    )  # fmt: skip
    niggli_reduce(atoms)
    atoms.info = {}
    return atoms


def vacancy():
    """A lithium vacancy among four formula units."""
    atoms = linio2().repeat((2, 2, 1))
    del atoms[[atom.index for atom in atoms if atom.symbol == "Li"][0]]
    return atoms


def label(code, structures, ids, protocol="fast", **inputs):
    return run_get_node(
        WorkflowFactory("cgcnn.label").get_builder_from_protocol(
            code, DataFactory("cgcnn.structures").from_ase(structures, ids), "gpaw", protocol, **inputs
        )
    )


def test_the_label_is_what_gpaw_gives_here(code):
    results, node = label(code, [linio2()], ["LiNiO2"])
    assert node.is_finished_ok, node.outputs.failures.get_dict()
    labelled = results["labelled"].atoms("LiNiO2")

    here = linio2()
    here.set_initial_magnetic_moments([1.0 if symbol == "Ni" else 0.0 for symbol in here.symbols])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        here.calc = gpaw.GPAW(
            mode=gpaw.PW(250), xc="PBE", spinpol=True, kpts={"size": (3, 3, 2), "gamma": True}, txt=None, maxiter=100,
            occupations=gpaw.FermiDirac(0.1), convergence={"energy": 1e-4, "density": 1e-3, "eigenstates": 1e-4},
        )  # fmt: skip
        energy = here.get_potential_energy()
    assert labelled.get_potential_energy() == pytest.approx(energy, abs=1e-5)
    assert np.allclose(labelled.get_forces(), here.get_forces(), atol=1e-4)
    assert np.allclose(labelled.get_stress(), here.get_stress(), atol=1e-5)
    assert np.allclose(labelled.get_magnetic_moments(), here.get_magnetic_moments(), atol=1e-4)

    scheme = scheme_of(labelled)
    assert scheme["engine"] == "gpaw"
    assert scheme["engine_version"] == gpaw.__version__
    assert (scheme["functional"], scheme["spin"], scheme["relaxed"], scheme["hubbard_u"]) == ("PBE", True, False, {})
    assert scheme["cutoffs"] == {"wave functions": 250.0}
    assert set(scheme["pseudopotentials"]) == {"Li", "Ni", "O"}
