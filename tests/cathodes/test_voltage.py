"""Voltages: known answers from a linear calculator, and pymatgen's own."""

from typing import ClassVar

import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.calculator import Calculator
from scipy.stats import norm

from cgcnn_ase.cathodes import build_cathode
from cgcnn_ase.cathodes.voltage import average_voltage, framework, voltage_curve
from cgcnn_ase.cathodes.voltage_plot import voltage_plot
from cgcnn_ase.energies.interface import Energies
from cgcnn_ase.plotting.model_plots import save

LITHIUM = -1.9


class Linear(Calculator):
    """Each element has its energy, and pairs of Li in a cell repel: U x² a formula unit."""

    implemented_properties: ClassVar = ["energy"]
    by_element: ClassVar = {"Li": -6.0, "Co": -7.0, "Ni": -5.0, "Mn": -8.0, "Al": -3.0, "O": -4.0, "Na": -1.0}

    def __init__(self, repulsion=0.0):
        super().__init__()
        self.repulsion = repulsion

    def calculate(self, atoms=None, *_):
        symbols = atoms.get_chemical_symbols()
        units = symbols.count("O") / 2
        x = symbols.count("Li") / units if units else 0.0
        self.results = {"energy": sum(self.by_element[s] for s in symbols) + self.repulsion * x**2 * units}


class Members:
    """The linear energies, in members of which each has its own energy of Li and of Co."""

    name = "members"
    references: ClassVar = {"Li": LITHIUM}

    def __init__(self, lithium, cobalt, stds=None):
        self.lithium, self.cobalt, self.stds = np.array(lithium), np.array(cobalt), stds

    def energies(self, structures):
        result = [
            a.get_chemical_symbols().count("Li") * self.lithium + a.get_chemical_symbols().count("Co") * self.cobalt
            for a in structures
        ]
        members = np.stack(result, axis=1)
        stds = None if self.stds is None else self.stds * members.std(axis=0)
        return Energies(members.mean(axis=0), members, stds, (None,) * len(structures))


class EnergiesOf(Members):
    """Each element has its energy, in one member."""

    def __init__(self, by_element):
        self.by_element = by_element

    def energies(self, structures):
        return Energies(
            np.array([sum(self.by_element[s] for s in atoms.get_chemical_symbols()) for atoms in structures])
        )


def lco(li_vacancy=0.0, **options):
    return build_cathode("LiCoO2", li_vacancy=li_vacancy, **({"supercell": (2, 2, 1)} | options))


# The average


def test_a_linear_energy_has_a_known_voltage():
    result = average_voltage(lco(), lco(1.0), Linear(), lithium=LITHIUM)
    assert result.voltage == pytest.approx(6.0 - 1.9)
    assert (result.x_from, result.x_to) == (1.0, 0.0)
    assert result.std is None
    assert result.members is None


def test_a_quadratic_energy_has_a_known_voltage_between_any_contents():
    # E(x) = U x² per unit: V = 4.1 - U (x1 + x2)
    result = average_voltage(lco(0.25), lco(0.75), Linear(repulsion=0.3), lithium=LITHIUM)
    assert result.voltage == pytest.approx(4.1 - 0.3 * (0.75 + 0.25))
    assert (result.x_from, result.x_to) == (0.75, 0.25)


def test_neither_the_size_of_the_cells_nor_their_order_matters():
    small, large = lco(supercell=1), lco(1.0, supercell=(2, 2, 2))
    values = [average_voltage(*pair, Linear(0.2), lithium=LITHIUM).voltage for pair in ((small, large), (large, small))]
    assert values == pytest.approx([average_voltage(lco(), lco(1.0), Linear(0.2), lithium=LITHIUM).voltage] * 2)


def test_the_metal_may_be_a_structure():
    lithium = bulk("Li", cubic=True)
    result = average_voltage(lco(), lco(1.0), Linear(), lithium=lithium)
    assert result.voltage == pytest.approx(6.0 - 6.0)  # its atoms have the energy of those in the oxide


def test_mixed_metals_count_as_one_framework():
    result = framework(build_cathode("NCM811", li_vacancy=0.1), "Li")
    assert result.x == pytest.approx(0.9)
    assert result.n_units == 20
    assert result.formula == "Co0.1Mn0.1Ni0.8O2"
    assert framework(build_cathode("LiFePO4", supercell=1), "Li").formula == "FePO4"
    full, half = build_cathode("NCM811"), build_cathode("NCM811", li_vacancy=0.5, seed=3)
    assert average_voltage(full, half, Linear(0.1), lithium=LITHIUM).voltage == pytest.approx(4.1 - 0.1 * 1.5)


# The error


def test_the_std_is_the_members_by_hand():
    lithium = [-6.0, -6.2, -5.9]
    model = Members(lithium, cobalt=[-7.0, -17.0, 3.0])
    result = average_voltage(lco(), lco(1.0), model)
    assert result.members == pytest.approx([6.0 - 1.9, 6.2 - 1.9, 5.9 - 1.9])
    assert result.std == pytest.approx(np.std(lithium))  # what they say of Co is in both cells, and gone


def test_members_that_err_in_the_framework_only_leave_no_error():
    model = Members([-6.0, -6.0, -6.0], cobalt=[-7.0, -17.0, 3.0], stds=4.0)
    assert average_voltage(lco(), lco(1.0), model).std == pytest.approx(0.0, abs=1e-9)


def test_the_interval_holds_nine_tenths_of_a_normal_distribution():
    result = average_voltage(lco(), lco(1.0), Members([-6.0, -6.2, -5.9], [-7.0, -7.1, -7.2]))
    half = norm.ppf(0.95) * result.std
    assert (result.lower, result.upper) == pytest.approx((result.voltage - half, result.voltage + half), abs=1e-3)
    alone = average_voltage(lco(), lco(1.0), Linear(), lithium=LITHIUM)
    assert (alone.std, alone.lower, alone.upper) == (None, None, None)


def test_the_distance_from_the_hull_has_the_std_of_the_members():
    rng = np.random.default_rng(0)
    members = rng.normal(size=(4, 3)) * 0.1 + [0.0, 3.0, 0.0]

    class Random:
        name, references = "random", {"Li": 0.0}

        def energies(self, cells):
            assert len(cells) == 3
            return Energies(members.mean(axis=0), members)

    middle = voltage_curve([lco(), lco(0.25), lco(1.0)], Random()).phases[1]
    distance = members @ [-0.75, 1.0, -0.25] / 12  # 12 CoO2 in each cell
    assert middle.above_hull == pytest.approx(distance.mean())
    assert middle.above_hull_std == pytest.approx(distance.std())
    assert middle.above_hull_per_atom == pytest.approx(distance.mean() * 12 / len(lco(0.25)))


def test_an_ion_of_charge_two_halves_the_voltage_and_doubles_the_capacity():
    full, empty = lco(), lco(1.0)
    magnesium = full.copy()
    magnesium.symbols[magnesium.symbols == "Li"] = "Mg"
    energies = EnergiesOf({"Li": -6.0, "Mg": -6.0, "Co": -7.0, "O": -4.0})
    lithium = average_voltage(full, empty, energies, lithium=-1.0)
    result = average_voltage(magnesium, empty, energies, lithium=-1.0, ion="Mg")
    assert result.voltage == pytest.approx(lithium.voltage / 2) == 2.5
    masses = [atoms.get_masses().sum() for atoms in (full, magnesium)]
    assert result.capacity_grav == pytest.approx(2 * lithium.capacity_grav * masses[0] / masses[1])


def test_calibration_multiplies_the_std():
    plain = average_voltage(lco(), lco(1.0), Members([-6.0, -6.2], [-7.0, -7.1]))
    doubled = average_voltage(lco(), lco(1.0), Members([-6.0, -6.2], [-7.0, -7.1], stds=2.0))
    assert doubled.std == pytest.approx(2 * plain.std)


def test_a_model_of_this_package_gives_a_voltage_with_its_std(small_model):
    result = average_voltage(lco(), lco(1.0), small_model)
    assert np.isfinite(result.voltage)
    assert result.std > 0
    assert len(result.members) == 3
    assert np.mean(result.members) == pytest.approx(result.voltage)


# The curve


def series(contents=(0.0, 0.25, 0.5, 0.75, 1.0)):
    return [lco(v) for v in contents]


def test_a_convex_energy_has_a_step_at_every_content():
    curve = voltage_curve(series(), Linear(repulsion=0.4), lithium=LITHIUM)
    assert [phase.x for phase in curve.phases] == pytest.approx([0, 0.25, 0.5, 0.75, 1])
    assert all(phase.is_stable for phase in curve.phases)
    assert [phase.formation_energy for phase in curve.phases] == pytest.approx(
        [0.4 * (x**2 - x) for x in (0, 0.25, 0.5, 0.75, 1)]
    )
    assert [(s.x_from, s.x_to) for s in curve.steps] == [(1, 0.75), (0.75, 0.5), (0.5, 0.25), (0.25, 0)]
    assert [s.voltage for s in curve.steps] == pytest.approx([4.1 - 0.4 * x for x in (1.75, 1.25, 0.75, 0.25)])
    assert curve.unit == "CoO2"


def test_a_concave_energy_has_one_step_of_the_average_voltage():
    curve = voltage_curve(series(), Linear(repulsion=-0.4), lithium=LITHIUM)
    (step,) = curve.steps
    assert step.voltage == pytest.approx(average_voltage(lco(), lco(1.0), Linear(-0.4), lithium=LITHIUM).voltage)
    assert [phase.is_stable for phase in curve.phases] == [True, False, False, False, True]
    assert curve.phases[2].above_hull == pytest.approx(0.4 * 0.25)


def test_the_curve_agrees_with_pymatgens_insertion_electrode():
    """Voltages, capacities, change of volume; and distances from the hull as its phase diagram has them."""
    from pymatgen.analysis.phase_diagram import PhaseDiagram
    from pymatgen.apps.battery.insertion_battery import InsertionElectrode
    from pymatgen.entries.computed_entries import ComputedEntry, ComputedStructureEntry
    from pymatgen.io.ase import AseAtomsAdaptor

    rng = np.random.default_rng(3)
    structures = [lco(v, seed=s) for v, s in ((0, 0), (0.25, 1), (0.25, 2), (0.5, 3), (0.5, 4), (0.75, 5), (1.0, 6))]
    noise = rng.normal(0, 0.8, 7)
    for k, atoms in enumerate(structures):
        atoms.set_cell(atoms.cell * (1 + 0.01 * k), scale_atoms=True)

    class Noisy:
        name, references = "noisy", {"Li": LITHIUM}

        def energies(self, cells):
            linear = Linear(0.3)
            result = []
            for atoms, extra in zip(cells, noise, strict=True):
                copy = atoms.copy()
                copy.calc = linear
                result.append(copy.get_potential_energy() + extra)
            return Energies(np.array(result))

    curve = voltage_curve(structures, Noisy())
    entries = [
        ComputedStructureEntry(AseAtomsAdaptor.get_structure(_bare(a)), float(e))
        for a, e in zip(structures, Noisy().energies(structures).energies, strict=True)
    ]
    metal = ComputedStructureEntry(AseAtomsAdaptor.get_structure(bulk("Li")), LITHIUM)
    electrode = InsertionElectrode.from_entries(entries, metal)
    theirs = sorted((pair.voltage for pair in electrode.voltage_pairs), reverse=True)
    assert sorted((s.voltage for s in curve.steps), reverse=True) == pytest.approx(theirs, abs=1e-6)
    assert len(curve.steps) < 4  # the noise is large enough to push some above the hull
    assert electrode.get_average_voltage() == pytest.approx(
        sum(s.voltage * (s.x_from - s.x_to) for s in curve.steps), abs=1e-6
    )
    assert curve.average.voltage == pytest.approx(electrode.get_average_voltage(), abs=1e-6)
    assert curve.average.capacity_grav == pytest.approx(electrode.get_capacity_grav(), rel=1e-4)
    assert curve.average.capacity_vol == pytest.approx(electrode.get_capacity_vol(), rel=1e-4)
    assert curve.max_volume_change == pytest.approx(electrode.max_delta_volume)
    in_charging = sorted(electrode.voltage_pairs, key=lambda pair: pair.voltage)
    for step, pair in zip(curve.steps, in_charging, strict=True):
        assert step.capacity_grav == pytest.approx(pair.mAh / pair.mass_discharge, rel=1e-4)
        assert step.volume_change == pytest.approx(pair.vol_charge / pair.vol_discharge - 1)
    elements = [ComputedEntry(symbol, 50.0) for symbol in ("Co", "O")]  # so high that nothing falls apart into them
    diagram = PhaseDiagram([*entries, metal, *elements])
    for phase in curve.phases:
        _, above = diagram.get_decomp_and_e_above_hull(entries[phase.index])
        assert phase.above_hull_per_atom == pytest.approx(above, abs=1e-9)


def _bare(atoms):
    copy = atoms.copy()
    copy.info.clear()
    return copy


def test_the_lowest_of_several_orderings_counts():
    energies = {0: 0.0, 1: -1.0, 2: -3.0, 3: 0.0}

    class ByPlace:
        name, references = "by place", {"Li": 0.0}

        def energies(self, cells):
            return Energies(np.array([energies[k] for k in range(len(cells))]))

    curve = voltage_curve([lco(), lco(0.5, seed=1), lco(0.5, seed=2), lco(1.0)], ByPlace())
    stable = [phase.index for phase in curve.phases if phase.is_stable]
    assert stable == [3, 2, 0]
    assert next(p for p in curve.phases if p.index == 1).above_hull == pytest.approx(2.0 / 12)


def test_formation_energies_of_the_ends_are_certain(small_model):
    curve = voltage_curve(series((0.0, 0.5, 1.0)), small_model)
    assert curve.phases[0].std == pytest.approx(0.0, abs=1e-9)
    assert curve.phases[-1].std == pytest.approx(0.0, abs=1e-9)
    assert curve.phases[1].std > 0
    assert curve.to_dict()["ion"] == "Li"


def test_the_picture_shows_every_phase_and_step(tmp_path, small_model):
    curve = voltage_curve(series(), Members([-6.0, -6.2], [-7.0, -7.1]))
    figure = voltage_plot(curve)
    left, right = figure.axes
    assert "CoO" in left.get_xlabel()
    assert right.get_ylabel() == "voltage against Li (V)"
    line = max(right.lines, key=lambda each: len(each.get_xdata()))
    assert len(line.get_xdata()) == 2 * len(curve.steps)
    assert save(figure, tmp_path / "v.png").stat().st_size > 5000
    assert voltage_plot(voltage_curve(series((0.0, 1.0)), Linear(), lithium=LITHIUM)).axes


# Bad input


def test_bad_input_in_words():
    def voltage(a, b, **options):
        return average_voltage(a, b, Linear(), **({"lithium": LITHIUM} | options))

    nickel = build_cathode("LiNiO2", supercell=1, li_vacancy=1.0)
    with pytest.raises(ValueError, match="structure 1 has the framework NiO2 and structure 0 CoO2"):
        voltage(lco(), nickel)
    with pytest.raises(ValueError, match="all structures hold 1 Li per CoO2"):
        voltage(lco(), lco(supercell=1))
    with pytest.raises(ValueError, match="the energy of Li metal on the scale of 'Linear' is not known"):
        voltage(lco(), lco(1.0), lithium=None)
    with pytest.raises(ValueError, match="the metal is Li, not Na"):
        voltage(lco(), lco(1.0), lithium=bulk("Na"))
    with pytest.raises(ValueError, match="ion 'Be': allowed are Li, Na, K"):
        voltage(lco(), lco(1.0), ion="Be")
    with pytest.raises(ValueError, match="nothing but Li"):
        voltage(lco(), bulk("Li"))
    with pytest.raises(ValueError, match="there are no structures"):
        voltage_curve([], Linear(), lithium=LITHIUM)
    missing = lco(1.0)
    del missing[[0]]
    with pytest.raises(ValueError, match="framework"):
        voltage(lco(), missing)
