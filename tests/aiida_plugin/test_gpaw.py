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

from aiida_plugin.data.labels import scheme_of  # noqa: E402
from aiida_plugin.engines.base import Run, mesh_of  # noqa: E402
from aiida_plugin.engines.gpaw import GPAWEngine, gpaw_parameters  # noqa: E402
from aiida_plugin.engines.protocol import resolve  # noqa: E402


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
    del atoms[next(atom.index for atom in atoms if atom.symbol == "Li")]
    return atoms


def label(code, structures, ids, protocol="fast", **inputs):
    return run_get_node(
        WorkflowFactory("cgcnn.label").get_builder_from_protocol(
            code, DataFactory("cgcnn.structures").from_ase(structures, ids), "gpaw", protocol, **inputs
        )
    )


def test_a_run_is_what_gpaw_gives_here(code):
    results, node = run_get_node(CalculationFactory("cgcnn.ase_dft"), **gpaw_job(code, silicon()))
    assert node.is_finished_ok, node.exit_message
    here = silicon()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        here.calc = gpaw.GPAW(mode=gpaw.PW(150), xc="PBE", kpts=(1, 1, 1), txt=None)
        energy = here.get_potential_energy()
    there = results["labelled"].atoms(0)
    assert there.get_potential_energy() == pytest.approx(energy, abs=1e-5)
    assert np.allclose(there.get_forces(), here.get_forces(), atol=1e-4)
    assert np.allclose(there.get_stress(), here.get_stress(), atol=1e-5)


@pytest.mark.long
def test_the_label_is_what_gpaw_gives_here(code):
    """Of a magnetic crystal, through the work chain of labels."""
    results, node = label(code, [linio2()], ["LiNiO2"])
    assert node.is_finished_ok, node.outputs.failures.get_dict()
    labelled = results["labelled"].atoms("LiNiO2")

    here = linio2()
    here.set_initial_magnetic_moments([1.0 if symbol == "Ni" else 0.0 for symbol in here.symbols])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        here.calc = gpaw.GPAW(
            mode=gpaw.PW(250), xc="PBE", spinpol=True, kpts={"size": (2, 2, 1), "gamma": True}, txt=None, maxiter=100,
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


@pytest.mark.slow
def test_a_lithium_vacancy_cell(code):
    """Fifteen atoms, Γ alone, with initial moments of the structure's own."""
    atoms = vacancy()
    nickel = [atom.index for atom in atoms if atom.symbol == "Ni"]
    moments = np.zeros(len(atoms))
    moments[nickel] = [1.0, 1.0, 0.5, 0.5]
    atoms.set_initial_magnetic_moments(moments)
    results, node = label(code, [atoms], ["vacancy"])
    assert node.is_finished_ok, node.outputs.failures.get_dict()
    labelled = results["labelled"].atoms("vacancy")
    assert np.allclose(labelled.get_forces().sum(axis=0), 0, atol=0.3)
    magnetic_moments = labelled.get_magnetic_moments()
    assert magnetic_moments[nickel].min() > 0
    assert magnetic_moments[nickel].sum() > 0.8 * magnetic_moments.sum()
    (job,) = [child for child in node.called_descendants if isinstance(child, orm.CalcJobNode)]
    assert job.inputs.settings["parameters"]["kpts"]["size"] == [1, 1, 1]
    assert {kind.name for kind in job.inputs.structure.kinds} == {"Li", "Ni", "Ni1", "O"}


def gpaw_job(code, atoms, *, options=None, task="energy", fmax=0.05, max_steps=1, **parameters):
    """Inputs of a small spin-paired run."""
    settings = {"mode": {"name": "pw", "ecut": 150}, "xc": "PBE", "kpts": {"size": [1, 1, 1]}, **parameters}
    return {
        "code": code,
        "structure": orm.StructureData(ase=atoms),
        "settings": orm.Dict({
            "calculator": "gpaw", "parameters": settings, "task": task, "fmax": fmax, "max_steps": max_steps
        }),
        "metadata": {"options": {"environment_variables": {"OMP_NUM_THREADS": "1"}, **(options or {})}},
    }  # fmt: skip


def silicon():
    atoms = bulk("Si")
    atoms.positions[1, 0] += 0.15
    return atoms


@pytest.mark.parametrize(
    ("parameters", "status", "words"),
    [
        ({"xc": "SCAN"}, 310, "functional 'SCAN': this GPAW was built without libxc; allowed: LDA, PBE, revPBE"),
        ({"warp": 9}, 310, "refuses its parameters: TypeError"),
        ({"setups": {"Si": "warp"}}, 312, "FileNotFoundError: Could not find required PAW dataset"),
        ({"maxiter": 2}, 410, "the electrons did not converge"),
    ],
)
def test_what_goes_wrong_is_said(code, parameters, status, words):
    if parameters.get("xc") and gpaw.get_libraries()["libxc"]:
        pytest.skip("this GPAW has libxc")
    _, node = run_get_node(CalculationFactory("cgcnn.ase_dft"), **gpaw_job(code, silicon(), **parameters))
    assert node.exit_status == status, node.exit_message
    assert words in node.exit_message


@pytest.mark.slow
def test_electrons_that_do_not_converge_get_more_steps(code):
    _, node = run_get_node(WorkflowFactory("cgcnn.ase_dft.base"), calc=gpaw_job(code, silicon(), maxiter=8))
    assert node.is_finished_ok, node.exit_message
    first, *_, last = node.called
    assert first.exit_status == 410
    parameters = last.inputs.settings["parameters"]
    assert parameters["maxiter"] > 8
    assert parameters["mixer"]["beta"] < 0.05


@pytest.mark.slow
def test_a_relaxation_goes_on_from_the_wave_functions(code):
    inputs = gpaw_job(code, silicon(), task="relax", fmax=0.1, max_steps=1)
    _, node = run_get_node(WorkflowFactory("cgcnn.ase_dft.base"), calc=inputs)
    assert node.is_finished_ok, node.exit_message
    first, *_, last = node.called
    assert first.exit_status == 420
    relaxed = node.outputs.labelled.atoms(0)
    assert np.linalg.norm(relaxed.get_forces(), axis=1).max() <= 0.1
    assert "previous/restart.gpw" in log_of(last)
    assert relaxed.get_potential_energy() == pytest.approx(energy_here(relaxed), abs=1e-3)


@pytest.mark.slow
def test_a_run_that_is_out_of_time_goes_on(code):
    """Stopped within the electrons' steps; the next job takes its wave functions and ends where a run in one does."""
    job = CalculationFactory("cgcnn.ase_dft")
    long = {  # takes several seconds on any machine
        "mode": {"name": "pw", "ecut": 400},
        "kpts": {"size": [4, 4, 4]},
        "convergence": {"density": 1e-7, "eigenstates": 1e-11, "energy": 1e-7},
    }
    stopped, first = run_get_node(job, **gpaw_job(code, silicon(), options={"max_wallclock_seconds": 1}, **long))
    assert first.exit_status == 321, first.exit_message
    assert "labelled" not in stopped
    results, second = run_get_node(job, **gpaw_job(code, silicon(), **long), restart_folder=stopped["remote_folder"])
    assert second.is_finished_ok, second.exit_message
    assert "previous/restart.gpw" in log_of(second)
    energy = results["labelled"].atoms(0).get_potential_energy()
    assert energy == pytest.approx(energy_here(silicon(), ecut=400, n_kpoints=4), abs=1e-3)


def log_of(job):
    return job.outputs.retrieved.base.repository.get_object_content("calculator.txt")


def energy_here(atoms, *, ecut=150, n_kpoints=1):
    atoms = atoms.copy()
    atoms.calc = gpaw.GPAW(mode=gpaw.PW(ecut), xc="PBE", kpts=(n_kpoints,) * 3, txt=None)
    return atoms.get_potential_energy()


def test_parameters_follow_the_protocol():
    structure = orm.StructureData(ase=linio2())
    fast, balanced = (resolve("gpaw", protocol) for protocol in ("fast", "balanced"))
    assert "setups" not in gpaw_parameters(structure, fast)
    assert gpaw_parameters(structure, balanced)["setups"] == {"Ni": ":d,6.2"}
    named = resolve("gpaw", "balanced", {"setups": {"Ni": "10"}, "parameters": {"mixer": {"beta": 0.02}}})
    assert gpaw_parameters(structure, named)["setups"] == {"Ni": "10:d,6.2"}
    assert gpaw_parameters(structure, named)["mixer"] == {"beta": 0.02}
    with pytest.raises(ValueError, match="kpoints_distance is 0"):
        mesh_of(structure, 0)


def test_along_a_relaxation_the_mesh_is_that_of_the_start(code):
    """Or the energy would jump where the cell has become so much smaller that the mesh of the distance changes."""
    start, later = (orm.StructureData(ase=bulk("Cu", cubic=True, a=a)) for a in (4.0, 3.0))
    settings = resolve("gpaw", "balanced", {"kpoints_distance": 0.5})
    meshes = [
        GPAWEngine().builder(run).calc.settings["parameters"]["kpts"]["size"]
        for run in (
            Run(start, code, settings),
            Run(later, code, settings),
            Run(later, code, settings, mesh_structure=start),
        )
    ]
    assert meshes == [[4, 4, 4], [5, 5, 5], [4, 4, 4]]


def test_a_mesh_has_the_spacing_that_was_asked():
    """Along each reciprocal vector, by its length; one point where the structure is not periodic."""
    atoms = bulk("Cu", cubic=True, a=4.0)
    assert mesh_of(orm.StructureData(ase=atoms), 2 * np.pi / 4.0 / 3 + 1e-6).get_kpoints_mesh()[0] == [3, 3, 3]
    assert mesh_of(orm.StructureData(ase=atoms), 2 * np.pi / 4.0 / 3 - 1e-6).get_kpoints_mesh()[0] == [4, 4, 4]
    atoms.pbc = (True, True, False)
    assert mesh_of(orm.StructureData(ase=atoms), 0.5).get_kpoints_mesh()[0] == [4, 4, 1]
