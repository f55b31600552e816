"""Differences of energies: their errors are those of the members' differences, checked by hand on made-up members."""

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator

from cgcnn_ase import CGCNNCalculator
from cgcnn_ase.core.elements import reference_energies
from cgcnn_ase.defects.supercell_energy import defect_formation_energies, defect_formation_energy
from cgcnn_ase.energies.energy_model import as_energy_model
from cgcnn_ase.energies.interface import CalculatorEnergy, Energies, EnergyModel
from cgcnn_ase.energies.relaxation import NotConvergedError
from cgcnn_ase.energies.scales import correction, element_energies


class Made:
    """Energies by the number of atoms, as made-up members."""

    name = "made"

    def __init__(self, by_size, stds=None, references=None):
        self.by_size, self.stds, self.references = by_size, stds, references

    def energies(self, structures):
        members = np.array([self.by_size[len(atoms)] for atoms in structures], dtype=float).T
        stds = None if self.stds is None else np.array([self.stds[len(atoms)] for atoms in structures])
        return Energies(members.mean(axis=0), members, stds, (True,) * len(structures))


def cells():
    pristine = bulk("MgO", "rocksalt", a=4.21, cubic=True)
    return pristine, pristine[1:]  # without one Mg


def test_the_std_is_that_of_the_members_differences_by_hand():
    pristine, defective = cells()
    model = Made({8: [-40.0, -41.0, -42.0, -43.0], 7: [-30.0, -32.0, -31.5, -34.0]})
    result = defect_formation_energy(defective, pristine, model, chemical_potentials={"Mg": -1.5})
    by_hand = [10.0 - 1.5, 9.0 - 1.5, 10.5 - 1.5, 9.0 - 1.5]
    assert result.members == pytest.approx(by_hand)
    assert result.energy == pytest.approx(np.mean(by_hand))
    assert result.std == pytest.approx(np.std(by_hand))  # no calibration: the spread as it is
    assert result.removed == {"Mg": 1}
    assert result.chemical_potentials == {"Mg": -1.5}
    assert result.n_atoms == (8, 7)
    assert result.in_domain is True
    assert result.to_dict()["model"] == "made"


def test_members_that_err_alike_have_no_error_left():
    pristine, defective = cells()
    shift = np.array([-3.0, 0.0, 1.0, 7.0])
    model = Made({8: -40 + shift, 7: -33 + shift}, stds={8: 5.0, 7: 5.0})
    result = defect_formation_energy(defective, pristine, model, chemical_potentials={"Mg": 0.0})
    assert result.std == pytest.approx(0.0, abs=1e-12)
    assert result.std_if_independent == pytest.approx(np.sqrt(50))


def test_calibration_widens_the_difference_as_it_widens_the_single_energies():
    pristine, defective = cells()
    members = {8: np.array([-40.0, -42.0]), 7: np.array([-33.0, -35.4])}  # spreads 1 and 1.2
    plain = defect_formation_energy(defective, pristine, Made(members), chemical_potentials={"Mg": 0.0})
    tripled = Made(members, stds={8: 3.0, 7: 3.6})
    result = defect_formation_energy(defective, pristine, tripled, chemical_potentials={"Mg": 0.0})
    assert plain.std == pytest.approx(0.2)
    assert result.std == pytest.approx(0.6)


def test_independent_members_add_in_squares():
    rng = np.random.default_rng(0)
    energies = Energies(np.zeros(2), rng.normal(size=(20000, 2)) * [3.0, 4.0])
    assert energies.combine([1, -1]).std == pytest.approx(5.0, rel=0.03)


def test_one_member_knows_no_difference():
    energies = Energies(np.array([1.0, 2.0]), np.array([[1.0, 2.0]]), np.array([0.1, 0.1]))
    assert energies.combine([1, -1]).value == pytest.approx(-1.0)
    assert energies.combine([1, -1]).std is None


def test_members_that_agree_in_everything():
    energies = Energies(np.array([1.0, 2.0]), np.ones((3, 2)) * [1.0, 2.0], np.array([0.1, 0.1]))
    assert energies.combine([1, -1]).std == 0.0


# Models of this package


def test_a_graph_model_gives_the_calculators_energies(small_model):
    from cgcnn_ase import load_model

    pristine, defective = cells()
    result = as_energy_model(small_model).energies([pristine, defective])
    for k, atoms in enumerate((pristine, defective)):
        calculator = CGCNNCalculator(small_model)
        atoms.calc = calculator
        assert result.energies[k] == pytest.approx(atoms.get_potential_energy(), abs=1e-4)
        assert result.stds[k] == pytest.approx(calculator.get_energy_uncertainty())
    assert result.members.shape == (3, 2)
    assert result.members.mean(axis=0) == pytest.approx(result.energies)
    assert result.members.std(axis=0).min() > 0
    for same in (load_model(small_model), CGCNNCalculator(small_model)):
        assert as_energy_model(same).energies([pristine]).energies == pytest.approx(result.energies[:1])


def test_what_elements_cancel_is_exact(small_model):
    """With elemental chemical potentials only the formation energies are left, whatever the reference is."""
    pristine, defective = cells()
    usual = defect_formation_energy(defective, pristine, small_model)
    none = defect_formation_energy(defective, pristine, as_energy_model(small_model, references="none"))
    other = {"Mg": 11.0, "O": -7.0}
    mapped = defect_formation_energy(defective, pristine, as_energy_model(small_model, references=other))
    assert usual.chemical_potentials == {"Mg": reference_energies()["Mg"]}
    assert none.energy == pytest.approx(usual.energy, abs=1e-4)
    assert mapped.energy == pytest.approx(usual.energy, abs=1e-4)
    assert usual.std == pytest.approx(none.std, rel=1e-3)
    poor = defect_formation_energy(
        pristine[:-1], pristine, small_model, chemical_potentials={"O": reference_energies()["O"] - 2.0}
    )
    rich = defect_formation_energy(pristine[:-1], pristine, small_model)
    assert rich.energy - poor.energy == pytest.approx(2.0)


def test_several_at_once_are_those_one_by_one(small_model):
    pristine, _ = cells()
    cells_ = [pristine[1:], pristine[:-1]]
    together = list(defect_formation_energies(cells_, pristine, small_model))
    alone = [defect_formation_energy(cell, pristine, small_model) for cell in cells_]
    assert [f.energy for f in together] == pytest.approx([f.energy for f in alone], abs=1e-4)
    assert [f.removed for f in together] == [{"Mg": 1}, {"O": 1}]


def test_an_antisite_exchanges_and_a_displaced_atom_does_not(small_model):
    pristine, _ = cells()
    antisite = pristine.copy()
    antisite.symbols[0] = "O"
    assert defect_formation_energy(antisite, pristine, small_model).removed == {"Mg": 1, "O": -1}
    moved = pristine.copy()
    moved.positions[0] += 0.3
    assert defect_formation_energy(moved, pristine, small_model).chemical_potentials == {}


# Calculators


def test_a_vacancy_in_copper_by_emt_with_and_without_relaxation():
    pristine = bulk("Cu", cubic=True).repeat(2)
    defective = pristine[1:]
    pristine.calc = EMT()
    mu = pristine.get_potential_energy() / len(pristine)
    fixed = defect_formation_energy(defective, pristine, EMT(), chemical_potentials={"Cu": mu})
    moved = defect_formation_energy(defective, pristine, EMT(), chemical_potentials={"Cu": mu}, relax=True, fmax=0.01)
    defective.calc = EMT()
    assert fixed.energy == pytest.approx(defective.get_potential_energy() - 31 * mu)
    assert 0.5 < moved.energy < fixed.energy < 2.0  # measured: 1.3 eV
    assert fixed.std is None
    assert fixed.members is None
    assert fixed.std_if_independent is None
    assert fixed.in_domain is None
    assert (fixed.was_relaxed, moved.was_relaxed) == (False, True)
    assert fixed.model == "EMT"


def test_stored_energies():
    pristine, defective = cells()
    pristine.calc = SinglePointCalculator(pristine, energy=-48.0)
    defective.calc = SinglePointCalculator(defective, energy=-39.0)
    result = defect_formation_energy(defective, pristine, "stored", chemical_potentials={"Mg": -1.6})
    assert result.energy == pytest.approx(9.0 - 1.6)
    defective.calc = None
    with pytest.raises(ValueError, match="structure 1 .* brings no energy"):
        defect_formation_energy(defective, pristine, "stored", chemical_potentials={"Mg": -1.6})


def test_chgnet_is_an_energy_model():
    chgnet = pytest.importorskip("chgnet.model.dynamics")
    atoms = bulk("MgO", "rocksalt", a=4.21)
    model = as_energy_model(chgnet.CHGNetCalculator(use_device="cpu"), references="mp-pbe")
    assert isinstance(model, EnergyModel)
    assert model.name == "CHGNetCalculator"
    formation = model.energies([atoms]).energies[0] - model.references["Mg"] - model.references["O"]
    assert formation / 2 == pytest.approx(-3.05, abs=0.15)  # measured -601.6 kJ/mol = -3.12 eV/atom


# Scales


class Scaled:
    """Energies by composition on a scale."""

    name = "scaled"

    def __init__(self, scale):
        self.scale, self.references = scale, element_energies(scale)

    def energies(self, structures):
        """A formation energy of -1 eV/atom without corrections, so that nothing but the scale differs."""
        values = []
        for atoms in structures:
            of_elements = sum(reference_energies()[symbol] for symbol in atoms.symbols)
            formula = atoms.get_chemical_formula()
            values.append(-len(atoms) + of_elements + correction(formula, self.scale, oxide_type="oxide"))
        return Energies(np.array(values), in_domain=(None,) * len(values))


def nickel_oxide():
    pristine = bulk("NiO", "rocksalt", a=4.2, cubic=True)
    nickel, oxygen = (int(np.flatnonzero(pristine.symbols == symbol)[0]) for symbol in ("Ni", "O"))
    return pristine, [pristine[[k for k in range(8) if k != gone]] for gone in (nickel, oxygen)]


def test_energies_of_two_scales_are_corrected_and_said():
    """The oxide with U and the metal without: by hand, -2.541 eV for each Ni of an oxide, and -0.687 for each O."""
    pristine, cells_ = nickel_oxide()
    nickel, oxygen = defect_formation_energies(cells_, pristine, Scaled("uncorrected"))
    assert nickel.energy == pytest.approx(1.0 + 2.541, abs=1e-6)
    assert oxygen.energy == pytest.approx(1.0 + 0.687, abs=1e-6)
    assert (nickel.scale, nickel.correction) == ("mp2020", pytest.approx(2.541))
    for scale, of_nickel in (("mp2020", 2.541), ("mp-legacy", 2.164)):
        (same,) = defect_formation_energies(cells_[:1], pristine, Scaled(scale))
        assert (same.scale, same.correction) == (scale, 0.0)
        assert same.energy == pytest.approx(1.0 + of_nickel, abs=1e-6)
    uncorrected = defect_formation_energy(
        cells_[0], pristine, Scaled("uncorrected"), chemical_potentials={"Ni": reference_energies()["Ni"]}
    )
    assert (uncorrected.energy, uncorrected.scale, uncorrected.limit) == (pytest.approx(1.0), "uncorrected", "given")
    with pytest.raises(ValueError, match="two scales: .*that of the cells, uncorrected.*give that of Ni, too, or none"):
        list(
            defect_formation_energies(
                cells_, pristine, Scaled("uncorrected"), chemical_potentials={"O": reference_energies()["O"]}
            )
        )


def test_chemical_potentials_of_the_hull():
    """Of NiO beside nickel (O-poor) and beside Ni3O4 (O-rich), as the table has them, on the table's scale."""
    pristine, cells_ = nickel_oxide()
    for model in (Scaled("uncorrected"), Scaled("mp2020")):
        elements = list(defect_formation_energies(cells_, pristine, model))
        poor, rich = (
            list(defect_formation_energies(cells_, pristine, model, limit=f"O-{end}")) for end in ("poor", "rich")
        )
        for one, other in ((poor, rich), (rich, poor)):
            assert one[0].energy + one[1].energy == pytest.approx(other[0].energy + other[1].energy, abs=1e-4)
        assert poor[0].energy == pytest.approx(elements[0].energy)  # nickel itself
        assert (poor[0].limit_phases, rich[0].limit_phases) == (("Ni",), ("Ni3O4",))
        assert (rich[1].scale, rich[1].limit) == ("mp2020", "O-rich")
        shift = rich[1].chemical_potentials["O"] - reference_energies()["O"]
        assert rich[1].energy == pytest.approx(elements[1].energy + shift)
    old = defect_formation_energy(cells_[0], pristine, Scaled("mp-legacy"), limit="Ni-rich")
    assert (old.scale, old.correction) == ("mp-legacy", 0.0)
    with pytest.raises(ValueError, match="limit 'O-rich' and chemical potentials of your own"):
        defect_formation_energy(cells_[0], pristine, Scaled("mp2020"), limit="O-rich", chemical_potentials={"Ni": 0.0})
    with pytest.raises(ValueError, match="the energies of 'EMT' are not known to be; state it"):
        defect_formation_energy(cells_[0], pristine, EMT(), limit="O-rich")


def test_a_calculator_with_a_stated_scale():
    model = as_energy_model(EMT(), scale="mp-legacy")
    assert (model.scale, model.references["N"]) == ("mp-legacy", element_energies("mp-legacy")["N"])
    assert as_energy_model(EMT(), scale="other:EMT").references is None
    with pytest.raises(ValueError, match="unknown scale of energies 'mp2021'"):
        as_energy_model(EMT(), scale="mp2021")
    with pytest.raises(ValueError, match="are the Materials Project's, the energies on the scale other:EMT"):
        as_energy_model(EMT(), scale="other:EMT", references="mp-pbe")
    with pytest.raises(ValueError, match="are on the scale mp2020, not mp-legacy"):
        as_energy_model(Scaled("mp2020"), scale="mp-legacy")


def test_stored_energies_of_two_scales_never_mix():
    pristine, defective = cells()
    for atoms, scale in ((pristine, "mp2020"), (defective, "mp-legacy")):
        atoms.info |= {"energy": -1.0, "scale": scale}
    with pytest.raises(ValueError, match="on the scales mp-legacy and mp2020 never mix"):
        as_energy_model("stored").energies([pristine, defective])


# Second opinions


class Offset(Scaled):
    """The energies of a scale, each atom an amount more, as of the element; and ``by`` more without an atom."""

    name = "offset"

    def __init__(self, scale, by=0.0, fails=0):
        super().__init__("mp2020")
        self.scale, self.by, self.fails = scale, by, fails
        self.references = {symbol: energy + 7.0 for symbol, energy in self.references.items()}

    def energies(self, structures):
        """Those of today's scale, and 7 eV an atom; a ValueError for a cell of ``fails`` atoms."""
        if any(len(atoms) == self.fails for atoms in structures):
            raise ValueError("too few atoms")
        sizes = np.array([len(atoms) for atoms in structures])
        energies = Scaled("mp2020").energies(structures).energies + 7.0 * sizes + self.by * (sizes < 8)
        return Energies(energies, in_domain=(None,) * len(structures))


@pytest.mark.parametrize("options", [{}, {"limit": "O-rich"}, {"chemical_potentials": {"Ni": -6.0, "O": -7.0}}])
def test_models_that_differ_by_their_scale_alone_do_not_disagree(options):
    """Uncorrected, of both schemes of corrections, with elements of another energy: one formation energy."""
    pristine, cells_ = nickel_oxide()
    others = [Scaled("uncorrected"), Scaled("mp2020"), Scaled("mp-legacy")]
    for model in others:
        alone = list(defect_formation_energies(cells_, pristine, model, **options))
        result = list(defect_formation_energies(cells_, pristine, model, second_opinion=others, **options))
        assert [one.second_opinion_std for one in result] == pytest.approx([0.0, 0.0], abs=1e-6)
        assert [one.energy for one in result] == [one.energy for one in alone]
        assert [one.second_opinion_std for one in alone] == [None, None]
        same = defect_formation_energy(cells_[0], pristine, model, second_opinion=model, **options)
        assert same.second_opinion_std == pytest.approx(0.0, abs=1e-12)


def test_the_disagreement_is_that_of_the_formation_energies():
    pristine, cells_ = nickel_oxide()
    opinions = [Offset("mp2020", by=0.3), Offset("mp2020", by=-0.6)]
    (result, _) = defect_formation_energies(cells_, pristine, Scaled("mp2020"), second_opinion=opinions)
    assert result.second_opinion_std == pytest.approx(np.std([0.0, 0.3, -0.6]))
    assert result.note == ""


def test_another_model_that_cannot_treat_a_cell():
    pristine, cells_ = nickel_oxide()
    for fails, where in ((7, ""), (8, "the pristine cell: ")):
        opinions = [Offset("mp2020", fails=fails), Offset("mp2020", by=0.4)]
        result = defect_formation_energy(cells_[0], pristine, Scaled("mp2020"), second_opinion=opinions)
        assert result.second_opinion_std == pytest.approx(0.2)
        assert result.note == f"no second opinion by offset: {where}ValueError: too few atoms"
    alone = defect_formation_energy(cells_[0], pristine, Scaled("mp2020"), second_opinion=opinions[0])
    assert alone.second_opinion_std is None


def test_a_calculator_of_an_unknown_scale_says_what_it_lacks():
    copper = bulk("Cu", cubic=True).repeat(2)
    potentials = {"chemical_potentials": {"Cu": -0.5}}
    with pytest.raises(ValueError, match=r"by EMT: the energy of Cu on the scale of EMT is not known; give it as"):
        defect_formation_energy(copper[1:], copper, Scaled("mp2020"), second_opinion=[EMT()])
    with pytest.raises(ValueError, match="the energy of Cu on the scale of EMT is not known"):
        defect_formation_energy(copper[1:], copper, EMT(), second_opinion=Scaled("mp2020"), **potentials)
    # by hand: of two calculators on one stated scale, and of two with energies of the element
    plain = as_energy_model(EMT(), scale="other:EMT")
    same = defect_formation_energy(copper[1:], copper, plain, second_opinion=plain, **potentials)
    assert same.second_opinion_std == 0.0
    atoms = [copper.copy(), copper[1:]]
    for each, calculator in ((0, EMT()), (1, EMT())):
        atoms[each].calc = calculator
    pristine, defective = (each.get_potential_energy() for each in atoms)
    emt = defective - pristine + pristine / 32
    model = as_energy_model(EMT(), references={"Cu": pristine / 32})
    result = defect_formation_energy(copper[1:], copper, model, second_opinion=Offset(None, by=0.0))
    other = Scaled("mp2020").energies([copper[1:], copper]).energies
    assert result.energy == pytest.approx(emt)
    by_hand = other[0] - other[1] + reference_energies()["Cu"]
    assert result.second_opinion_std == pytest.approx(abs(emt - by_hand) / 2)


# Bad input


def test_bad_input_in_words(small_model):
    pristine, defective = cells()
    stretched = defective.copy()
    stretched.set_cell(1.1 * stretched.cell.array)
    with pytest.raises(ValueError, match="different cell vectors; both must be the same supercell"):
        defect_formation_energy(stretched, pristine, small_model)
    with pytest.raises(ValueError, match="no chemical potential for Mg on the energy scale of 'EMT'"):
        defect_formation_energy(defective, pristine, EMT())
    with pytest.raises(ValueError, match=r"relaxation needs forces, and 'small-formation.* such as CHGNet"):
        defect_formation_energy(defective, pristine, small_model, relax=True)
    with pytest.raises(ValueError, match="predicts band_gap; an energy needs one model of"):
        as_energy_model("band-gap")
    with pytest.raises(ValueError, match="allowed for a calculator are 'mp-pbe' and a dict"):
        as_energy_model(EMT(), references="none")
    with pytest.raises(ValueError, match="no reference energy for Mg"):
        as_energy_model(small_model, references={"O": 1.0}).energies([pristine])
    with pytest.raises(ValueError, match="overlap"):
        as_energy_model(small_model).energies([Atoms("MgO", cell=[4, 4, 4], pbc=True)])
    copper = bulk("Cu", cubic=True)
    with pytest.raises(ValueError, match="fmax must be above 0"):
        defect_formation_energy(copper[1:], copper, EMT(), chemical_potentials={"Cu": 0}, relax=True, fmax=0)


def test_a_relaxation_that_does_not_end_is_an_error():
    pristine = bulk("Cu", cubic=True).repeat(2)
    pristine.rattle(0.2, seed=1)
    options = {"chemical_potentials": {"Cu": 0.0}, "relax": True, "fmax": 1e-4, "max_steps": 2}
    with pytest.raises(NotConvergedError, match="after 2 steps of FIRE"):
        defect_formation_energy(pristine[1:], pristine, CalculatorEnergy(EMT()), **options)
