"""CP2K: the input that it gets, real runs on H2, and what is refused."""

import shutil
import subprocess

import numpy as np
import pytest

pytest.importorskip("aiida_cp2k")

from aiida import orm
from aiida.engine import run_get_node
from ase.build import bulk, molecule
from ase.units import GPa, Hartree, Ry, kB

from aiida_plugin.data.labels import scheme_of
from aiida_plugin.engines.base import START_ONCE, Run, engine
from aiida_plugin.engines.protocol import resolve

CP2K = shutil.which("cp2k")
needs_cp2k = pytest.mark.skipif(CP2K is None, reason="cp2k is not installed (Debian: cp2k)")
ENGINE = engine("cp2k")
QUICK = {"basis_set": "SZV-MOLOPT-SR-GTH", "spin": False, "kpoints_distance": 1.6}


@pytest.fixture
def code(aiida_profile, aiida_code_installed):
    return aiida_code_installed(label="cp2k", default_calc_job_plugin="cp2k", filepath_executable=CP2K or "/bin/true")


def hydrogen(strain=0.0):
    """H2 along z in a box so small that it is strained."""
    atoms = molecule("H2")
    atoms.set_cell([3.2, 3.2, 4.0 * (1 + strain)])
    atoms.positions[:, 2] *= 1 + strain
    atoms.pbc = True
    return atoms


def builder(atoms, code, moments=None, options=None, **settings):
    result = resolve("cp2k", "fast", QUICK | settings)
    return ENGINE.builder(Run(orm.StructureData(ase=atoms), code, result, moments or {}, options or {}))


def run(atoms, code, **settings):
    _, node = run_get_node(builder(atoms, code, **settings))
    assert node.is_finished_ok, node.exit_message
    return ENGINE.labelled(node, orm.Str("this")).atoms("this"), node


def rendered(made):
    """The input file, by the plugin's own generator."""
    from aiida_cp2k.utils import Cp2kInput

    return " ".join(Cp2kInput(made.cp2k.parameters.get_dict()).render().split())


@needs_cp2k
def test_energy_and_forces_of_a_real_run(code):
    labelled, node = run(hydrogen(), code)
    assert labelled.get_forces().shape == (2, 3)
    assert labelled.get_forces()[0, 2] == pytest.approx(-labelled.get_forces()[1, 2], abs=1e-3)
    assert abs(labelled.get_forces()[0, 2]) > 0.01

    text = node.outputs.retrieved.get_object_content("aiida.out")
    by_hand = [float(line.split()[-1]) for line in text.splitlines() if line.startswith(" ENERGY|")]
    assert labelled.get_potential_energy() == pytest.approx(by_hand[-1] * Hartree)
    scheme = scheme_of(labelled)
    assert scheme["functional"] == "PBE"
    assert scheme["pseudopotentials"] == {"H": "GTH-PBE with SZV-MOLOPT-SR-GTH"}
    assert scheme["cutoffs"] == pytest.approx({"density": 4100, "relative": 540}, abs=2)
    assert scheme["kpoints_distance"] == 1.6
    assert (scheme["spin"], scheme["relaxed"], scheme["hubbard_u"]) == (False, False, {})
    version = subprocess.run([CP2K, "--version"], capture_output=True, text=True, check=False).stdout
    assert f"CP2K version {scheme['engine_version']}\n" in version


@pytest.mark.long
@needs_cp2k
def test_stress_of_a_real_run(code):
    """It is the slope of the energy: its sign, its unit and the place of zz."""
    labelled, longer, shorter = (run(hydrogen(strain), code)[0] for strain in (0.0, 0.01, -0.01))
    slope = (longer.get_potential_energy() - shorter.get_potential_energy()) / 0.02 / labelled.get_volume()
    assert labelled.get_stress()[2] == pytest.approx(slope, rel=0.1)
    assert abs(slope) > 1 * GPa


@pytest.mark.slow
@needs_cp2k
def test_moments_and_a_hubbard_u_at_gamma(code):
    u = {"hubbard": True, "hubbard_u": {"H": 2.0}, "kpoints_distance": 10.0, "spin": True,
         "basis_set": "DZVP-MOLOPT-SR-GTH", "cutoff_density": 1500.0, "smearing": 0.3}  # fmt: skip
    atoms = hydrogen()
    del atoms[1]
    _, node = run_get_node(builder(atoms, code, moments={"H": 1.0}, **u))
    labels = ENGINE.labelled(node, orm.Str("this"))
    assert labels.atoms(0).get_magnetic_moments() == pytest.approx([1.0], abs=0.2)
    assert scheme_of(labels.atoms(0))["hubbard_u"] == {"H": 2.0}
    query = orm.QueryBuilder().append(type(labels), tag="labels", filters={"id": labels.pk})
    jobs = query.append(orm.CalcJobNode, with_descendants="labels").distinct().all(flat=True)
    assert [job.process_type for job in jobs] == ["aiida.calculations:cp2k"]


@needs_cp2k
@pytest.mark.slow
def test_relaxation(code):
    atoms = hydrogen()
    atoms.positions[0, 2] += 0.1
    labelled, node = run(atoms, code, relax=True, kpoints_distance=10.0)
    before, _ = run(atoms, code, kpoints_distance=10.0)
    assert labelled.get_potential_energy() < before.get_potential_energy() - 0.01
    assert np.abs(labelled.get_forces()).max() < 0.1
    assert scheme_of(labelled)["relaxed"] is True


@needs_cp2k
def test_a_run_that_does_not_converge(code):
    made = builder(hydrogen(), code, max_scf_steps=1)
    made.max_iterations = orm.Int(1)
    _, node = run_get_node(made)
    with pytest.raises(ValueError, match="did not converge|no energy"):
        ENGINE.labelled(node, orm.Str("this"))


@needs_cp2k
def test_a_run_that_cp2k_aborts_keeps_the_reason(code):
    """Once, as another try would end in the same way."""
    made = builder(hydrogen(), code, basis_set="NO-SUCH-BASIS")
    _, node = run_get_node(made)
    assert not node.is_finished_ok
    assert len(node.called) == 1
    reason = ENGINE.failure(node)
    assert "The requested basis set <NO-SUCH-BASIS> for element <H> was not found in the basis set files" in reason
    with pytest.raises(ValueError, match="no output_parameters|no energy|did not"):
        ENGINE.labelled(node, orm.Str("this"))


def test_every_setting_reaches_the_input(code):
    contained = orm.ContainerizedCode(
        engine_command="apptainer exec {image_name}", image_name="cp2k.sif", filepath_executable="cp2k",
        computer=code.computer, default_calc_job_plugin="cp2k",
    )  # fmt: skip
    atoms = bulk("NiO", "rocksalt", a=4.17)
    made = builder(atoms, code, {"Ni": 1.5}, {"max_wallclock_seconds": 1000}, spin=True, smearing=0.2, hubbard=True,
                   kpoints_distance=10.0, basis_sets={"O": "DZVP-MOLOPT-GTH"}, max_scf_steps=33,
                   parameters={"force_eval": {"dft": {"charge": 1}}})  # fmt: skip
    text = rendered(made)
    assert "&KIND Ni BASIS_SET SZV-MOLOPT-SR-GTH &DFT_PLUS_U L 2 U_MINUS_J [eV] 6.2 &END DFT_PLUS_U" in text
    assert "MAGNETIZATION 1.5 POTENTIAL GTH-PBE &END KIND &KIND O BASIS_SET DZVP-MOLOPT-GTH" in text
    assert "UKS .TRUE." in text
    assert "CHARGE 1" in text
    assert "WALLTIME 950" in text
    assert "MAX_SCF 33" in text
    assert "RUN_TYPE ENERGY_FORCE" in text
    parameters = made.cp2k.parameters.get_dict()["FORCE_EVAL"]["DFT"]
    assert parameters["SCF"]["SMEAR"]["ELECTRONIC_TEMPERATURE"] * kB == pytest.approx(0.2)
    assert parameters["MGRID"]["CUTOFF"] * Ry == pytest.approx(4100)
    assert "kpoints" not in made.cp2k
    assert made.cp2k.metadata.options.withmpi is False
    assert made.cp2k.metadata.options.prepend_text == START_ONCE
    assert made.handler_overrides["restart_incomplete_calculation"]["enabled"]
    assert not builder(atoms, contained).handler_overrides["restart_incomplete_calculation"]["enabled"]
    assert builder(atoms, code, kpoints_distance=2.0).cp2k.kpoints.get_kpoints_mesh()[0] == [2, 2, 2]


def test_what_cannot_be_built_says_what_to_do(code):
    atoms = bulk("NiO", "rocksalt", a=4.17)
    with pytest.raises(ValueError, match="no Hubbard U with k-points; label a supercell"):
        builder(atoms, code, hubbard=True)
    with pytest.raises(ValueError, match="functional is 'SCAN'; allowed with CP2K: PBE"):
        builder(atoms, code, functional="SCAN")
