"""VASP: no licence here, so its inputs and its parser are tried with aiida-vasp's mock.

The mock reads the inputs, and copies the outputs of a real run that ASE brings as its own test data (diamond).
"""

import shutil
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("aiida_vasp")

from aiida import orm
from aiida.engine import run_get_node
from ase import Atoms
from ase.build import bulk
from ase.io import read
from ase.units import GPa

from aiida_plugin.data.labels import scheme_of
from aiida_plugin.engines.base import START_ONCE, Run, engine, label_scale
from aiida_plugin.engines.protocol import resolve

ENGINE = engine("vasp")
MOCK = shutil.which("mock-vasp", path=str(Path(sys.executable).parent)) or "/bin/true"
OUTPUTS = Path(find_spec("ase").origin).parent / "test" / "testdata" / "vasp"
#: what aiida-vasp reads of a potential, of no use for VASP
POTCAR = """  PAW_PBE {name} 01Jan2000
   4.00000000000000
 parameters from PSCTR are:
   VRHFIN ={element}: none
   LEXCH  = PE
   EATOM  =   147.1560 eV,   10.8157 Ry

   TITEL  = PAW_PBE {name} 01Jan2000
   LULTRA =        F    use ultrasoft PP ?
   ENMAX  =  400.000; ENMIN  =  300.000 eV
   ZVAL   =    4.000    mass and valenz
 END of PSCTR-controll parameters
 End of Dataset
"""
MAGNETIZATION = """
 magnetization (x)

# of ion       s       p       d       tot
------------------------------------------
    1        0.010   0.020   0.700   0.730
    2       -0.010   0.000   0.040   0.030
--------------------------------------------------
tot          0.000   0.020   0.740   0.760

"""


@pytest.fixture
def family(aiida_profile_clean, tmp_path):
    """Potentials of the kind that the parsers read, of our own making."""
    from aiida_vasp.data.potcar import PotcarData

    for name in ("C", "Li_sv", "Ni_pv", "O"):
        folder = tmp_path / "potpaw" / name
        folder.mkdir(parents=True)
        (folder / "POTCAR").write_text(POTCAR.format(name=name, element=name.partition("_")[0]))
    PotcarData.upload_potcar_family(tmp_path / "potpaw", "mock", "made up")
    return "mock"


@pytest.fixture
def code(aiida_profile_clean, aiida_code_installed):
    return aiida_code_installed(label="vasp", default_calc_job_plugin="vasp.vasp", filepath_executable=MOCK)


@pytest.fixture
def mock(tmp_path, monkeypatch):
    """What the mock runs in the place of VASP, and where it keeps it."""
    script = tmp_path / "not-vasp"
    (tmp_path / "OUTCAR").write_text((OUTPUTS / "OUTCAR_example_1").read_text() + MAGNETIZATION)
    (tmp_path / "registry").mkdir()
    script.write_text(
        f"#!/bin/sh\ncp POSCAR CONTCAR\ncp {OUTPUTS}/vasprun_pstress.xml vasprun.xml\ncp {tmp_path}/OUTCAR OUTCAR\n"
    )
    script.chmod(0o755)
    monkeypatch.setenv("MOCK_VASP_REG_BASE", str(tmp_path / "registry"))
    monkeypatch.setenv("MOCK_VASP_VASP_CMD", str(script))
    return tmp_path


def diamond():
    return bulk("C", "diamond", a=3.57)


def builder(atoms, code, moments=None, **settings):
    result = resolve("vasp", "fast", {"potential_family": "mock"} | settings)
    return ENGINE.builder(Run(orm.StructureData(ase=atoms), code, result, moments or {}))


def incar(node):
    job = next(each for each in node.called_descendants if isinstance(each, orm.CalcJobNode))
    return job, job.base.repository.get_object_content("INCAR").lower()


def test_labels_of_a_run(family, code, mock):
    _, node = run_get_node(builder(diamond(), code, {"C": 0.5}, kpoints_distance=0.5))
    assert node.is_finished_ok, node.exit_message
    assert START_ONCE in incar(node)[0].base.repository.get_object_content("_aiidasubmit.sh")
    labels = ENGINE.labelled(node, orm.Str("this"))
    labelled = labels.atoms("this")
    expected = read(OUTPUTS / "vasprun_pstress.xml")
    assert labelled.get_potential_energy() == pytest.approx(expected.get_potential_energy(), abs=1e-6)
    np.testing.assert_allclose(labelled.get_forces(), expected.get_forces())
    np.testing.assert_allclose(labelled.get_stress(), expected.get_stress(), atol=1e-8)
    assert abs(labelled.get_stress()[0]) > 0.01 * GPa
    np.testing.assert_allclose(labelled.get_magnetic_moments(), [0.73, 0.03])
    scheme = scheme_of(labelled)
    assert scheme["engine_version"].startswith("6.3.0")
    assert scheme["functional"] == "PBE"
    assert scheme["pseudopotentials"]["C"].startswith("C sha512:")
    assert scheme["cutoffs"] == {"wavefunctions": 520.0}
    assert scheme["kpoints_distance"] == pytest.approx(0.5)
    assert (scheme["spin"], scheme["relaxed"], scheme["hubbard_u"]) == (True, False, {})
    query = orm.QueryBuilder().append(type(labels), tag="labels", filters={"id": labels.pk})
    jobs = query.append(orm.CalcJobNode, with_descendants="labels").distinct().all(flat=True)
    assert [job.process_type for job in jobs] == ["aiida.calculations:vasp.vasp"]
    # along a relaxation the mesh is that of the start
    settings = resolve("vasp", "fast", {"potential_family": "mock", "kpoints_distance": 0.5})
    start, wider = (orm.StructureData(ase=atoms) for atoms in (diamond(), diamond().repeat((3, 1, 1))))
    mesh = ENGINE.builder(Run(wider, code, settings, mesh_structure=start)).kpoints.get_kpoints_mesh()[0]
    assert mesh == Run(start, code, settings).mesh.get_kpoints_mesh()[0]
    assert mesh != Run(wider, code, settings).mesh.get_kpoints_mesh()[0]


def test_the_scale_of_a_label():
    """Those with the Materials Project's settings have its energies; other pseudopotentials, another zero."""
    potentials = {name: f"{name}_{suffix} sha512:0" for name, suffix in (("Li", "sv"), ("Ni", "pv"))}
    project = {
        "engine": "vasp", "functional": "PBE", "hubbard_u": {"Ni": 6.2}, "spin": True, "kpoints_distance": 0.25,
        "pseudopotentials": potentials | {"O": "O sha512:0"}, "cutoffs": {"wavefunctions": 520.0},
    }  # fmt: skip
    assert label_scale(project, ["Li", "Ni", "O"]) == "uncorrected"
    assert label_scale(project | {"hubbard_u": {}}, ["Ni"]) == "uncorrected"  # a metal has no U
    for change in (
        {"hubbard_u": {}}, {"hubbard_u": {"Ni": 6.0}}, {"functional": "PBEsol"}, {"spin": False}, {"converged": False},
        {"kpoints_distance": 0.3}, {"cutoffs": {"wavefunctions": 400.0}}, {"engine": "gpaw"},
        {"pseudopotentials": potentials | {"O": "O_s sha512:0"}}, {"pseudopotentials": {}},
    ):  # fmt: skip
        scheme = project | change
        expected = f"other:{scheme['engine']} {scheme['functional']}"
        assert label_scale(scheme, ["Li", "Ni", "O"]) == expected, change
    assert label_scale(project, ["Ni"]) == "other:vasp PBE"  # with the U of its oxide
    fetched = {"engine": "materials_project", "functional": "PBE and PBE+U", "corrections": "MP2020"}
    assert (label_scale(fetched, ["O"]), label_scale(None, ["O"]), label_scale({}, ["O"])) == ("mp2020", None, None)
    settings = resolve("vasp", "balanced", {})
    assert (settings["kpoints_distance"], settings["cutoff_wavefunctions"], settings["spin"]) == (0.25, 520.0, True)


def test_tags_by_kind_in_the_order_of_the_atoms(family, code, mock):
    """Atoms of one kind need not stand together: VASP's lists follow the atoms."""
    atoms = Atoms("NiLiNiO", [[0, 0, 0], [2, 0, 0], [0, 2, 0], [0, 0, 2]], cell=[4, 4, 4], pbc=True)
    atoms.set_tags([1, 0, 2, 0])
    moments = {"Ni1": 1.5, "Ni2": -1.5}
    _, node = run_get_node(builder(atoms, code, moments, hubbard=True, relax=True, fmax=0.03, incar={"algo": "all"}))
    job, text = incar(node)
    tags = {key.strip(): value.split() for key, _, value in (line.partition("=") for line in text.splitlines())}
    assert [float(each) for each in tags["magmom"]] == [1.5, 0, -1.5, 0]
    assert [float(each) for each in tags["ldauu"]] == [6.2, 0, 6.2, 0]
    assert [int(each) for each in tags["ldaul"]] == [2, -1, 2, -1]
    assert float(tags["ediffg"][0]) == -0.03
    assert float(tags["ediff"][0]) == pytest.approx(4e-3)
    assert (tags["ibrion"], tags["algo"], tags["ispin"]) == (["2"], ["all"], ["2"])
    poscar = job.base.repository.get_object_content("POSCAR").splitlines()
    written = np.array([[float(word) for word in line.split()[:3]] for line in poscar[-4:]])
    np.testing.assert_allclose(written @ atoms.cell.array, atoms.positions, atol=1e-8)


def test_a_run_without_outputs(family, code, mock, monkeypatch):
    monkeypatch.setenv("MOCK_VASP_VASP_CMD", "/bin/true")
    _, node = run_get_node(builder(diamond(), code))
    assert not node.is_finished_ok
    assert node.exit_message
    with pytest.raises(ValueError, match="no energy; exit code"):
        ENGINE.labelled(node, orm.Str("this"))


def test_what_cannot_be_built_says_what_to_do(family, code):
    with pytest.raises(ValueError, match=r"no family 'PBE\.54' of VASP potentials.*uploadfamily"):
        builder(diamond(), code, potential_family="PBE.54")
    with pytest.raises(ValueError, match="has no potential Ni_sv; of Ni it has: Ni_pv"):
        builder(bulk("NiO", "rocksalt", a=4.17), code, potentials={"Ni": "Ni_sv"})
    with pytest.raises(ValueError, match="functional is 'SCAN'; allowed with VASP"):
        builder(diamond(), code, functional="SCAN")
    with pytest.raises(ValueError, match="smearing_method is 'cold'"):
        builder(diamond(), code, smearing_method="cold")
    assert builder(bulk("LiO", "rocksalt", a=4.17), code).potential_mapping.get_dict() == {"Li": "Li_sv", "O": "O"}
