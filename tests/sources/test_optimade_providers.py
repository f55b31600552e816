"""Providers, units and filters, without a server."""

from pathlib import Path

import pytest
from ase import units as ase_units
from optimade.filterparser import LarkParser

from cgcnn_ase.core.errors import FetchError
from cgcnn_ase.sources.client import Query
from cgcnn_ase.sources.optimade.filter import optimade_filter, reduced_formula
from cgcnn_ase.sources.optimade.server import PROVIDERS, check_units, find_provider, stated_licence, stated_version
from cgcnn_ase.sources.properties import FACTORS, UNITS, conversion, same_unit, units


@pytest.mark.parametrize("name", PROVIDERS)
def test_each_provider_says_what_is_needed(name):
    known = PROVIDERS[name]
    assert known.url.startswith("https://")
    assert not known.url.endswith(("/", "/v1"))
    assert known.licence
    assert known.citation
    assert set(known.properties) <= set(UNITS)
    for described in known.properties.values():
        # the specification's form of a provider's own property
        assert described.top.startswith("_")
        assert described.top == described.top.lower()


def test_the_page_of_the_manual_names_them_all():
    text = (Path(__file__).resolve().parents[2] / "docs/how_to/fetch_optimade.md").read_text(encoding="utf-8")
    for name, known in PROVIDERS.items():
        assert f"`{name}`" in text
        if not name.startswith("mp-optimade-"):  # the manual has the first of three
            for ours, theirs in known.properties.items():
                assert f"`{ours}` = `{theirs.field}`, {theirs.unit}" in text


def test_a_url_is_a_provider():
    for text in ("https://x.org/optimade", "https://x.org/optimade/", "https://x.org/optimade/v1/structures"):
        assert find_provider(text).url == "https://x.org/optimade"


@pytest.mark.parametrize(
    ("unit", "ours", "factor"),
    [
        ("Ry", "eV", ase_units.Ry),
        ("Ha", "eV", ase_units.Ha),
        ("kJ/mol", "eV", ase_units.kJ / ase_units.mol),
        ("kcal/mol", "eV", ase_units.kcal / ase_units.mol),
        ("J", "eV", ase_units.J),
        ("eV/Å^3", "GPa", 1 / ase_units.GPa),
        ("kbar", "GPa", 1e8 * ase_units.Pascal / ase_units.GPa),
        ("bohr^3", "Å^3", ase_units.Bohr**3),
        ("nm^3", "Å^3", ase_units.nm**3),
    ],
)
def test_factors_are_those_of_ase(unit, ours, factor):
    assert FACTORS[ours][unit] == pytest.approx(factor, rel=1e-7)


@pytest.mark.parametrize(
    ("name", "unit", "value", "expected"),
    [
        ("formation_energy_per_atom", "eV/cell", -8.0, -2.0),
        ("energy_above_hull", "meV/atom", 25.0, 0.025),
        ("total_magnetization", "mu_B/atom", 1.5, 6.0),
        ("total_magnetization", "μB", 6.0, 6.0),
        ("volume", "Å^3/atom", 10.0, 40.0),
        ("volume", "nm^3", 0.04, 40.0),
        ("K_VRH", "kbar", 1600.0, 160.0),
        ("density", "kg/m^3", 5310.0, 5.31),
        ("poisson", "1", 0.3, 0.3),
    ],
)
def test_conversions_of_a_cell_of_four_atoms(name, unit, value, expected):
    assert conversion(name, unit)(value, 4) == pytest.approx(expected)


@pytest.mark.parametrize("name", UNITS)
def test_what_is_said_to_be_allowed_is(name):
    for unit in units(name):
        assert conversion(name, unit)(1.0, 1) > 0


@pytest.mark.parametrize(
    ("name", "unit"),
    [
        ("formation_energy_per_atom", "eV"),  # of what?
        ("formation_energy_per_atom", "eV/f.u."),
        ("band_gap", "eV/atom"),
        ("magnetization_per_formula_unit", "mu_B/atom"),
        ("K_VRH", "eV"),
        ("no_such", "eV"),
    ],
)
def test_what_cannot_be_converted_is_refused(name, unit):
    with pytest.raises(ValueError, match=r"allowed(:| are) "):
        conversion(name, unit)


def test_units_that_may_be_one():
    assert same_unit("eV", "eV/atom")
    assert same_unit("angstrom^3", "Å^3")
    assert not same_unit("eV/cell", "eV/atom")
    assert not same_unit("meV", "eV")


def test_units_of_the_server_decide():
    oqmd = PROVIDERS["oqmd"]
    check_units({"data": {"properties": {"_oqmd_delta_e": {"x-optimade-unit": "eV"}, "nsites": {}}}}, oqmd)
    check_units({}, oqmd)
    with pytest.raises(FetchError, match="'kJ/mol' for _oqmd_delta_e"):
        check_units({"data": {"properties": {"_oqmd_delta_e": {"unit": "kJ/mol"}}}}, oqmd)


def test_what_a_server_says_of_itself():
    assert stated_licence({"data": {"attributes": {"available_licenses": ["CC-BY-4.0"]}}}) == "CC-BY-4.0"
    assert stated_licence({"data": {"attributes": {"license": {"href": "https://l"}}}}) == "https://l"
    assert stated_licence({"data": {"attributes": {"license": None}}}) == ""
    assert stated_version({"database": {"version": "2024.12"}, "api_version": "1.2.0"}) == "2024.12, OPTIMADE 1.2.0"


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        (Query(), ""),
        (Query(elements=("Li", "O"), max_atoms=20), 'elements HAS ALL "Li","O" AND nsites<=20'),
        (Query(ids=("a", 'b"c')), r'id="a" OR id="b\"c"'),
        (Query(formula=("TiO2", "Li2O"), max_atoms=9),
         '(chemical_formula_reduced="O2Ti" OR chemical_formula_reduced="Li2O") AND nsites<=9'),
        (Query(chemsys=("O-Li",), exclude_elements=("H",)),
         'elements HAS ALL "Li","O" AND nelements=2 AND NOT elements HAS ANY "H"'),
        (Query(stable=True), "_oqmd_stability<=1e-06"),
        (Query(ranges={"energy_above_hull": (0, 0.1)}), "_oqmd_stability<=0.1"),
        (Query(ranges={"band_gap": (1, 3)}), "_oqmd_band_gap>=1 AND _oqmd_band_gap<=3"),
    ],
)  # fmt: skip
def test_filters(query, expected):
    text = optimade_filter(query, PROVIDERS["oqmd"].properties)
    assert text == expected
    if text:
        LarkParser().parse(text)


def test_what_a_server_cannot_compare_is_not_asked():
    query = Query(ranges={"energy_per_atom": (-5, 0), "band_gap": (1, None)})
    assert optimade_filter(query, PROVIDERS["alexandria"].properties) == "_alexandria_band_gap>=1"


@pytest.mark.parametrize(
    ("formula", "expected"),
    [("LiNiO2", "LiNiO2"), ("Ni2Li2O4", "LiNiO2"), ("TiO2", "O2Ti"), ("Ca3(PO4)2", "Ca3O8P2"), ("O2", "O")],
)
def test_formulas_as_the_specification_writes_them(formula, expected):
    from optimade.models.utils import reduce_formula

    assert reduced_formula(formula) == expected
    if "(" not in formula:
        assert reduced_formula(formula) == reduce_formula(formula)


@pytest.mark.parametrize("formula", ["Li0.5NiO2", "Qq2", "", "li-ni"])
def test_formulas_that_are_none(formula):
    with pytest.raises(ValueError, match="formula"):
        reduced_formula(formula)


def test_a_property_that_the_provider_does_not_have():
    with pytest.raises(ValueError, match="energy_above_hull.*allowed: energy_per_atom"):
        optimade_filter(Query(stable=True), PROVIDERS["mc3d"].properties)
