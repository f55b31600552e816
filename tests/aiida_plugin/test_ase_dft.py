"""Any ASE calculator as a job: real runs with EMT, and each way to fail."""

import json
import sys

import numpy as np
import pytest

aiida = pytest.importorskip("aiida", reason="aiida-core is an optional extra")

from aiida import orm  # noqa: E402
from aiida.common.links import LinkType  # noqa: E402
from aiida.engine import run_get_node  # noqa: E402
from aiida.manage.caching import enable_caching  # noqa: E402
from aiida.plugins import CalculationFactory, ParserFactory, WorkflowFactory  # noqa: E402
from ase.build import bulk  # noqa: E402
from ase.calculators.emt import EMT  # noqa: E402

from aiida_plugin.data.label_scheme import scheme_of  # noqa: E402


@pytest.fixture(autouse=True)
def _profile(aiida_profile):
    return aiida_profile


@pytest.fixture
def code(aiida_code_installed):
    return aiida_code_installed(default_calc_job_plugin="cgcnn.ase_dft", filepath_executable=sys.executable)


def copper(rattle=0.1):
    atoms = bulk("Cu", cubic=True)
    atoms.rattle(rattle, seed=1)
    return atoms


def run(code, atoms=None, *, options=None, **settings):
    """One job with EMT, unless the settings say otherwise."""
    return run_get_node(
        CalculationFactory("cgcnn.ase_dft"),
        code=code,
        structure=orm.StructureData(ase=copper() if atoms is None else atoms),
        settings=orm.Dict({"calculator": "emt", **settings}),
        metadata={"options": options or {}},
    )


def test_a_run_gives_what_the_calculator_gives_here(code):
    results, node = run(code)
    assert node.is_finished_ok, node.exit_message
    ours, theirs = results["labelled"].atoms(0), copper()
    theirs.calc = EMT()
    assert ours.get_potential_energy() == pytest.approx(theirs.get_potential_energy(), abs=1e-9)
    assert np.allclose(ours.get_forces(), theirs.get_forces(), atol=1e-9)
    assert np.allclose(ours.get_stress(), theirs.get_stress(), atol=1e-12)
    assert results["output_parameters"]["energy"] == pytest.approx(ours.get_potential_energy(), abs=1e-9)
