"""Quantum ESPRESSO: real runs against pw.x called by hand, and what is refused."""

import re
import subprocess
from functools import partial

import numpy as np
import pytest

pytest.importorskip("aiida_quantumespresso")

from aiida import orm
from aiida.engine import run_get_node
from ase import Atoms
from ase.build import bulk
from ase.spacegroup import crystal
from ase.units import GPa
from click.testing import CliRunner

from aiida_plugin.cli.app import main
from aiida_plugin.data.labels import scheme_of
from aiida_plugin.data.structures import StructureSetData
from aiida_plugin.engines.base import START_ONCE, Run, engine
from aiida_plugin.engines.protocol import resolve
from aiida_plugin.engines.pseudopotentials import FAMILY, install_pseudos, scalar_relativistic
from aiida_plugin.workflows.label import LabelWorkChain
from aiida_plugin.workflows.label_plan import label_plan

from .pw_by_hand import PW, by_hand, hydrogen, needs_pw, packaged

QE = engine("quantumespresso")
#: Γ only, low cutoffs: seconds
QUICK = {"kpoints_distance": 10.0, "cutoff_wavefunctions": 400.0, "cutoff_density": 1600.0}


@pytest.fixture
def family(aiida_profile):
    return install_pseudos()


@pytest.fixture
def scalar(aiida_profile, tmp_path):
    """A family of hydrogen alone, which has s electrons only: marked as what it is, not as made for spin-orbit."""
    text = packaged("H").replace('has_so="T"', 'has_so="F"')
    (tmp_path / "scalar").mkdir()
    for folder in (tmp_path, tmp_path / "scalar"):
        (folder / "H.UPF").write_text(text)
    return install_pseudos(tmp_path / "scalar", "scalar")


@pytest.fixture
def relativistic(aiida_profile, tmp_path):
    """A family of potentials made for spin-orbit coupling."""
    (tmp_path / "relativistic").mkdir()
    for symbol in ("Li", "Ni", "O", "H"):
        (tmp_path / "relativistic" / f"{symbol}.UPF").write_text(packaged(symbol))
    return install_pseudos(tmp_path / "relativistic", "relativistic")


@pytest.fixture
def code(aiida_profile, aiida_code_installed):
    return aiida_code_installed(
        label="pw", default_calc_job_plugin="quantumespresso.pw", filepath_executable=PW or "/bin/true"
    )


def lithium_vacancy():
    """A 2 x 2 x 1 supercell of LiNiO2 without one of its four lithium atoms: 15 atoms."""
    atoms = lithium_nickelate().repeat((2, 2, 1))
    del atoms[next(k for k, symbol in enumerate(atoms.symbols) if symbol == "Li")]
    return atoms


def lithium_nickelate():
    """LiNiO2, R-3m, 4 atoms."""
    return crystal(["Li", "Ni", "O"], [(0, 0, 0.5), (0, 0, 0), (0, 0, 0.2584)], spacegroup=166,
                   cellpar=[2.88, 2.88, 14.2, 90, 90, 120], primitive_cell=True)  # fmt: skip


def builder(atoms, code, moments=None, **settings):
    result = resolve("quantumespresso", "fast", QUICK | settings)
    return QE.builder(Run(orm.StructureData(ase=atoms), code, result, moments or {}))


def run(atoms, code, moments=None, **settings):
    """The labelled structure, and the work chain."""
    _, node = run_get_node(builder(atoms, code, moments, **settings))
    assert node.is_finished_ok, node.exit_message
    return QE.labelled(node, orm.Str("this")).atoms("this"), node


@needs_pw
def test_the_same_energy_as_pw_by_hand(family, code, tmp_path):
    atoms = lithium_nickelate()
    labelled, node = run(atoms, code, {"Ni": 1.0}, energy_tolerance=1e-7)
    magnetic = atoms.copy()
    magnetic.set_initial_magnetic_moments([1.0 / 18 if symbol == "Ni" else 0 for symbol in atoms.symbols])
    expected = by_hand(magnetic, tmp_path / "hand", nspin=2)
    assert labelled.get_potential_energy() == pytest.approx(expected, abs=1e-5)
    np.testing.assert_allclose(labelled.positions, atoms.positions, atol=1e-9)
    assert labelled.get_magnetic_moments()[1] == max(labelled.get_magnetic_moments()) > 0.2
    assert labelled.get_forces().shape == (4, 3)

    scheme = scheme_of(labelled)
    assert scheme["engine"] == "quantumespresso"
    assert scheme["functional"] == "PBE"
    assert scheme["spin"] is True
    assert scheme["relaxed"] is False
    assert scheme["hubbard_u"] == {}
    assert scheme["cutoffs"] == pytest.approx({"wavefunctions": 400, "density": 1600}, abs=0.01)
    assert scheme["kpoints_distance"] == 10.0
    assert set(scheme["pseudopotentials"]) == {"Li", "Ni", "O"}
    assert family.get_pseudo("Ni").md5 in scheme["pseudopotentials"]["Ni"]
    assert scheme["engine_version"][0].isdigit()

    (job,) = (each for each in node.called_descendants if isinstance(each, orm.CalcJobNode))
    query = orm.QueryBuilder().append(orm.CalcJobNode, tag="job", filters={"id": job.pk})
    labels = query.append(StructureSetData, with_ancestors="job").all(flat=True)
    assert {each.ids for each in labels} == {("this",)}  # links lead from the job to the label


@needs_pw
@pytest.mark.slow
def test_a_lithium_vacancy(family, code):
    labelled, node = run(lithium_vacancy(), code, {"Ni": 1.0})
    assert len(labelled) == 15
    assert np.abs(labelled.get_forces().sum(axis=0)).max() < 0.01
    assert node.outputs.output_parameters["number_of_k_points"] == 1
    assert node.outputs.output_parameters["number_of_atoms"] == 15


@pytest.mark.slow
@needs_pw
def test_stress_is_the_slope_of_the_energy(family, code, tmp_path):
    """Its sign, its unit and the place of zz."""
    atoms = bulk("LiH", "rocksalt", a=3.7)
    labelled, _ = run(atoms, code, spin=False, cutoff_wavefunctions=700.0, cutoff_density=2800.0, energy_tolerance=1e-7)
    energies = []
    for k, strain in enumerate((-0.01, 0.01)):
        stretched = atoms.copy()
        stretched.set_cell(atoms.cell.array @ np.diag([1, 1, 1 + strain]), scale_atoms=True)
        energies.append(by_hand(stretched, tmp_path / str(k), ecutwfc=700 / 13.6057, ecutrho=2800 / 13.6057))
    slope = (energies[1] - energies[0]) / 0.02 / atoms.get_volume()
    stress = labelled.get_stress()
    assert stress[2] == pytest.approx(slope, rel=0.05)
    assert abs(stress[2]) > 1 * GPa
    assert np.abs(stress[3:]).max() < 1e-4


@needs_pw
@pytest.mark.slow
def test_relaxation(family, code):
    atoms = hydrogen()
    atoms.positions[0, 2] += 0.15
    before, _ = run(atoms, code, spin=False)
    labelled, node = run(atoms, code, spin=False, relax=True, max_relax_steps=30, fmax=0.5)
    assert node.process_label == "PwRelaxWorkChain"
    assert labelled.get_potential_energy() < before.get_potential_energy() - 0.01
    assert np.abs(labelled.get_forces()).max() < 0.5
    assert labelled.get_distance(0, 1) != pytest.approx(atoms.get_distance(0, 1), abs=0.01)
    assert scheme_of(labelled)["relaxed"] is True


@pytest.mark.slow
@needs_pw
def test_hubbard_u_in_the_namelist(scalar, code, tmp_path):
    u = {"hubbard": True, "hubbard_u": {"H": 3.0}, "hubbard_input": "namelist", "pseudo_family": scalar.label}
    labelled, _ = run(hydrogen(), code, spin=False, energy_tolerance=1e-7, **u)
    assert scheme_of(labelled)["hubbard_u"] == {"H": 3.0}
    namelist = {"lda_plus_u": True, "hubbard_u(1)": 3.0, "u_projection_type": "ortho-atomic"} | {
        "pseudo_dir": tmp_path,
        "kpts": (1, 1, 1),
    }
    assert labelled.get_potential_energy() == pytest.approx(by_hand(hydrogen(), tmp_path / "u", **namelist), abs=1e-5)
    plain = by_hand(hydrogen(), tmp_path / "plain", pseudo_dir=tmp_path)
    assert abs(labelled.get_potential_energy() - plain) > 0.01


@needs_pw
def test_a_card_that_an_old_pw_ignores_is_no_label(scalar, code, tmp_path, monkeypatch):
    """As on another computer, whose pw.x is not asked for its version."""
    monkeypatch.setattr("aiida_plugin.engines.quantumespresso._version_of", lambda code: None)
    version = subprocess.run([PW], input="", cwd=tmp_path, capture_output=True, text=True, check=False).stdout
    if float(re.search(r"PWSCF v\.(\d+\.\d+)", version)[1]) >= 7.1:
        pytest.skip("this pw.x knows the card")
    u = {"hubbard": True, "hubbard_u": {"H": 3.0}, "pseudo_family": scalar.label}
    made = builder(hydrogen(), code, spin=False, **u)
    assert [each.value for each in made.pw.structure.hubbard.parameters] == [3.0]
    _, node = run_get_node(made)
    with pytest.raises(ValueError, match="hubbard_input: namelist"):
        QE.labelled(node, orm.Str("this"))


@pytest.mark.slow
@needs_pw
def test_a_run_that_does_not_converge(family, code):
    made = builder(lithium_nickelate(), code, {"Ni": 1.0}, max_scf_steps=1)
    made.max_iterations = orm.Int(1)
    _, node = run_get_node(made)
    assert node.exit_status == 401
    assert "maximum number of iterations" in node.exit_message
    with pytest.raises(ValueError, match="no energy"):
        QE.labelled(node, orm.Str("this"))


def test_every_setting_reaches_the_input(family, code):
    made = builder(lithium_nickelate(), code, {"Ni": 0.9}, smearing=0.2, energy_tolerance=1e-4, max_scf_steps=33,
                   kpoints_distance=0.5, parameters={"system": {"nbnd": 40}})  # fmt: skip
    parameters = made.pw.parameters.get_dict()
    assert parameters["SYSTEM"]["degauss"] * 13.605693 == pytest.approx(0.2)
    assert parameters["SYSTEM"]["nbnd"] == 40
    assert parameters["SYSTEM"]["starting_magnetization"] == pytest.approx({"Li": 0, "Ni": 0.9 / 18, "O": 0})
    assert parameters["ELECTRONS"]["conv_thr"] * 13.605693 == pytest.approx(4e-4)
    assert parameters["ELECTRONS"]["electron_maxstep"] == 33
    assert made.kpoints_distance == 0.5
    assert "kpoints" not in made
    # along a relaxation the mesh is that of the start
    start = orm.StructureData(ase=lithium_nickelate())
    wider = orm.StructureData(ase=lithium_nickelate().repeat((3, 1, 1)))
    settings = resolve("quantumespresso", "fast", QUICK | {"kpoints_distance": 0.5})
    along = QE.builder(Run(wider, code, settings, mesh_structure=start))
    assert along.kpoints.get_kpoints_mesh()[0] == Run(start, code, settings).mesh.get_kpoints_mesh()[0]
    assert along.kpoints.get_kpoints_mesh()[0] != Run(wider, code, settings).mesh.get_kpoints_mesh()[0]
    assert made.pw.metadata.options.withmpi is False
    assert made.pw.metadata.options.prepend_text == START_ONCE
    assert "settings" not in made.pw
    # a restart in a container copies, as a link leads nowhere there
    contained = orm.ContainerizedCode(
        engine_command="apptainer exec {image_name}", image_name="qe.sif", filepath_executable="pw.x",
        computer=code.computer, default_calc_job_plugin="quantumespresso.pw",
    )  # fmt: skip
    inside = builder(lithium_nickelate(), contained, kpoints_distance=0.5)
    assert inside.pw.settings.get_dict() == {"parent_folder_symlink": False}


def test_without_moments_all_kinds_may_find_one(family, code):
    start = builder(hydrogen(), code).pw.parameters.get_dict()["SYSTEM"]["starting_magnetization"]
    assert start == {"H": 1e-3}
    assert "nspin" not in builder(hydrogen(), code, spin=False).pw.parameters.get_dict()["SYSTEM"]


def test_cutoffs_of_the_family(family, code):
    made = builder(hydrogen(), code, cutoff_wavefunctions=None, cutoff_density=None).pw.parameters.get_dict()
    assert (made["SYSTEM"]["ecutwfc"], made["SYSTEM"]["ecutrho"]) == pytest.approx((60, 240), rel=1e-6)
    with pytest.raises(ValueError, match="set both"):
        builder(hydrogen(), code, cutoff_density=None)


def test_the_family_is_stored_once(family):
    assert install_pseudos().pk == family.pk
    assert len(family.elements) == 69
    assert family.get_recommended_cutoffs(elements=("Ni",), unit="Ry") == (60.0, 240.0)


def test_what_cannot_be_built_says_what_to_do(family, relativistic, code):
    with pytest.raises(ValueError, match=r"no pseudopotential family 'SSSP/9'.*aiida-pseudo install sssp"):
        builder(hydrogen(), code, pseudo_family="SSSP/9")
    with pytest.raises(ValueError, match=rf"'{FAMILY}' has none for Cs, U"):
        builder(Atoms("CsU", [[0, 0, 0], [3, 3, 3]], cell=[6, 6, 6], pbc=True), code)
    with pytest.raises(ValueError, match="made for PBE, the functional is PBEsol"):
        builder(hydrogen(), code, functional="PBEsol")
    with pytest.raises(ValueError, match=r"Ni\.UPF is fully relativistic.*hubbard: false"):
        builder(lithium_nickelate(), code, {"Ni": 1.0}, hubbard=True, pseudo_family=relativistic.label)
    with pytest.raises(ValueError, match="allowed: card"):
        builder(hydrogen(), code, hubbard_input="file")
    with pytest.raises(ValueError, match="kpoints_distance is 0"):
        builder(hydrogen(), code, kpoints_distance=0)
    with pytest.raises(ValueError, match="the density needs at least four times"):
        builder(hydrogen(), code, cutoff_density=1500.0)


def test_conflicts_are_found_at_submission(family, relativistic, code, tmp_path):
    """Fully relativistic potentials take no Hubbard U; SSSP, where it is installed, is taken by itself."""
    of_family = {"pseudo_family": relativistic.label}
    structures = StructureSetData.from_ase([lithium_nickelate(), hydrogen()], ["LiNiO2", "H2"])
    of_protocol = partial(LabelWorkChain.get_builder_from_protocol, code, structures, "quantumespresso")
    with pytest.raises(ValueError, match=r"no structure can be labelled: Ni\.UPF is fully relativistic.*install sssp"):
        of_protocol("balanced", of_family, indices=["LiNiO2"])
    # one that can be labelled is enough; the plan tells of each, as the command does
    node = structures.store()
    before = orm.QueryBuilder().append(orm.Node).count()
    nickelate, hydrogens, *references = label_plan(of_protocol("balanced", of_family, references=True))
    assert "fully relativistic" in nickelate.conflict
    assert hydrogens.conflict is None
    assert hydrogens.pseudopotentials == {"H": "H.UPF"}
    assert [run.name for run in references] == ["reference_H", "reference_Li", "reference_Ni", "reference_O"]
    done = CliRunner().invoke(main, ["label", str(node.pk), "--engine", "quantumespresso", "--code", code.full_label,
                                     "--protocol", "fast", "--dry-run"])  # fmt: skip
    assert done.exit_code == 0, done.output
    assert "Ni: Ni.UPF" in done.output.splitlines()[0]
    assert done.output.splitlines()[-1] == "2 runs of quantumespresso, 0 conflicts; nothing was submitted"
    assert orm.QueryBuilder().append(orm.Node).count() == before

    # as far as its files can be had here
    (tmp_path / "sssp").mkdir()
    for element in ("Li", "Ni", "O"):
        (tmp_path / "sssp" / f"{element}.UPF").write_text(scalar_relativistic(packaged(element)))
    sssp = install_pseudos(tmp_path / "sssp", "SSSP/1.3/PBE/efficiency")
    (run,) = label_plan(of_protocol("balanced", indices=["LiNiO2"]))
    assert run.conflict is None
    assert run.hubbard_u == {"Ni": 6.2}
    assert sssp.get_pseudo("Ni").filename == run.pseudopotentials["Ni"]
    made = QE.builder(Run(orm.StructureData(ase=lithium_nickelate()), code, resolve("quantumespresso", "balanced")))
    assert made.pw.pseudos["Ni"].uuid == sssp.get_pseudo("Ni").uuid
