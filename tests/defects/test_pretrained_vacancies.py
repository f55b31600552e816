"""The pretrained model of vacancies: known energies, what it does not know, and the command."""

import csv

import numpy as np
import pytest
from ase.build import bulk
from ase.io import read, write

from cgcnn_ase import load_model, predict
from cgcnn_ase.cathodes import build_cathode
from cgcnn_ase.defects import screen
from cgcnn_ase.models.registry import FIDELITIES, model_names, with_fidelity

from ..prediction.test_pretrained import EXAMPLES

MODEL = "vacancy-formation-energy"


def energies(atoms, fidelity):
    return predict(with_fidelity(MODEL, fidelity), atoms).to_frame().set_index("element")


def zinc_oxide():
    from ase.spacegroup import crystal

    return crystal(["Zn", "O"], [(1 / 3, 2 / 3, 0), (1 / 3, 2 / 3, 0.382)], spacegroup=186,
                   cellpar=[3.25, 3.25, 5.207, 90, 90, 120])  # fmt: skip


def corundum():
    from ase.spacegroup import crystal

    return crystal(["Al", "O"], [(0, 0, 0.3522), (0.3063, 0, 0.25)], spacegroup=167,
                   cellpar=[4.759, 4.759, 12.991, 90, 90, 120])  # fmt: skip


@pytest.mark.parametrize(
    ("atoms", "published"),
    [(bulk("MgO", "rocksalt", a=4.212), 7.61), (corundum(), 7.69), (zinc_oxide(), 4.97)],
    ids=["MgO", "Al2O3", "ZnO"],
)
def test_oxygen_vacancies_of_well_known_oxides(atoms, published):
    """Kumagai et al., Phys. Rev. Materials 5, 123803; neutral, oxygen-rich. They may be among the training hosts."""
    result = energies(atoms, "kumagai").loc["O"]
    assert result.value == pytest.approx(published, abs=0.7)
    assert result.lower < published < result.upper
    assert result.in_domain


def test_each_fidelity_knows_its_own_elements():
    """Oxygen is all that Kumagai's set has; Witman's has no lithium; the labels by CHGNet have both."""
    atoms = read(EXAMPLES / "LiNiO2.cif")
    assert set(FIDELITIES[MODEL]) == {"witman", "kumagai", "jarvis", "chgnet"}
    kumagai, witman, chgnet = (energies(atoms, name) for name in ("kumagai", "witman", "chgnet"))
    assert not kumagai.loc["Li"].in_domain
    assert not kumagai.loc["Ni"].in_domain
    assert not witman.loc["Li"].in_domain
    assert "no training structure has a labelled site of Li" in witman.loc["Li"].reason
    assert "labelled site" not in chgnet.loc["Li"].reason
    for name in FIDELITIES[MODEL]:
        assert with_fidelity(MODEL, name) in model_names()


def test_all_fidelities_cost_one_pass():
    names = [with_fidelity(MODEL, name) for name in FIDELITIES[MODEL]]
    models = [predict(name, bulk("MgO", "rocksalt", a=4.212)).all for name in names]
    together = predict(names, bulk("MgO", "rocksalt", a=4.212)).all
    assert sorted(p.value for p in together) == pytest.approx(sorted(p.value for each in models for p in each))
    assert len({p.model_sha256 for p in together}) == 1


def test_the_value_is_that_of_the_site_wherever_the_cell_starts():
    atoms = read(EXAMPLES / "LiFePO4.cif")
    other = atoms.repeat((2, 1, 1))[np.random.default_rng(0).permutation(2 * len(atoms))]
    other.positions += [0.3, 1.1, -0.7]
    other.wrap()
    one, two = (predict(MODEL, a).to_frame().sort_values("value") for a in (atoms, other))
    assert len(one) == len(two) == 6  # Li, Fe, P and three kinds of oxygen
    assert one.value.to_numpy() == pytest.approx(two.value.to_numpy(), abs=2e-3)
    assert (2 * one.multiplicity.to_numpy() == two.multiplicity.to_numpy()).all()


def test_the_command_writes_one_row_a_distinct_site(cgcnn_ase, tmp_path):
    write(tmp_path / "host.cif", corundum())
    for options in ([], ["--fidelity", "kumagai"]):
        ran = cgcnn_ase("predict", tmp_path / "host.cif", "--model", MODEL, *options)
        assert ran.code == 0, ran.err
        rows = list(csv.DictReader(ran.out.splitlines()))
        assert sorted((row["element"], row["multiplicity"]) for row in rows) == [("Al", "12"), ("O", "18")]
        assert {row["model"] for row in rows} == {MODEL + "".join(f"-{name}" for name in options[1:])}
        # the set of Kumagai knows oxygen sites only: no interval for the others
        assert [row["element"] for row in rows if not row["lower"]] == (["Al"] if options else [])
        assert all(float(row["lower"]) < float(row["value"]) < float(row["upper"]) for row in rows if row["lower"])
    ran = cgcnn_ase("predict", tmp_path / "host.cif", "--model", MODEL, "--fidelity", "gold")
    assert ran.code == 2
    assert "allowed: witman, kumagai, jarvis, chgnet" in ran.err


def test_lithium_vacancies_of_a_cathode():
    """The cheaper the less lithium is bound: an order of 0 to 10 eV, no two sites of a disordered cell quite alike."""
    host = build_cathode("NCM811", n_atoms=40, seed=1)
    model = with_fidelity(MODEL, "chgnet")
    result = [one.cost for one in screen(host, elements=["Li"], supercell=1, model=model)]
    assert len(result) > 3
    values = np.array([cost.energy for cost in result])
    assert ((values > 0) & (values < 10)).all()
    assert len(np.unique(values.round(4))) > 3
    assert all(cost.std > 0 for cost in result)


def test_the_card_names_the_sources():
    folder = load_model(MODEL)
    card = (EXAMPLES.parents[1] / "pretrained" / MODEL / "README.md").read_text()
    for name in ("Witman", "Kumagai", "Choudhary", "CHGNet"):
        assert name in card
    assert folder.target.level == "site"


def test_for_lithium_the_fidelity_that_knows_it_is_named(cgcnn_ase, tmp_path):
    """The default has seen no lithium: each prediction says which data set has, and a ranking says it in one line."""
    atoms = build_cathode("LiNiO2", supercell=(1, 1, 1))
    frame = energies(atoms, None)
    assert not frame.loc[["Li"], "in_domain"].any()
    assert frame.loc["Li", "reason"].startswith("no training structure has a labelled site of Li")
    # also for the other sites of a lithium host, as no training structure has lithium
    advice = "; the fidelity chgnet knows such sites (--fidelity chgnet)"
    assert all(reason.endswith(advice) for reason in frame["reason"])
    assert "--fidelity" not in " ".join(energies(atoms, "chgnet")["reason"])
    write(tmp_path / "LiNiO2.cif", atoms)
    options = ["--element", "Li", "--supercell", "1x1x1", "--output", tmp_path / "out", "--top", 0, "--uncertain", 0]
    ran = cgcnn_ase("screen", tmp_path / "LiNiO2.cif", *options)
    assert ran.code == 0, ran.err
    (line,) = [line for line in ran.err.splitlines() if "out of the domain of the model" in line]
    assert advice in line
