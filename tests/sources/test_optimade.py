"""The OPTIMADE client against the reference server on loopback; every count is made here by hand or by iteration."""

import dataclasses
import functools
import json

import numpy as np
import pytest

from cgcnn_ase.core.errors import FetchError
from cgcnn_ase.sources.client import CursorError, Query, with_retries
from cgcnn_ase.sources.fetch import fetch
from cgcnn_ase.sources.optimade import Optimade
from cgcnn_ase.sources.optimade.server import PROVIDERS
from cgcnn_ase.structures.packed import load_packed

from ..optimade_reference import crystals, document, serve

#: of the reference server, about itself
pytestmark = pytest.mark.filterwarnings("ignore:Accessing the 'model_fields' attribute:DeprecationWarning")

CRYSTALS = crystals()
#: made-up values that tell the crystals apart
DELTA_E = {name: -0.1 * k for k, name in enumerate(CRYSTALS)}
STABILITY = {name: 0.05 * (k - 5) for k, name in enumerate(CRYSTALS)}
FIELDS = ("formation_energy_per_atom", "energy_above_hull", "band_gap")


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    documents = [
        document(name, atoms, delta_e=DELTA_E[name], stability=STABILITY[name], band_gap=None if k % 3 else 1.5)
        for k, (name, atoms) in enumerate(CRYSTALS.items())
    ]
    described = [
        {"name": name, "type": "float", "unit": unit, "description": name}
        for name, unit in (("delta_e", "eV/atom"), ("stability", "eV/atom"), ("band_gap", "eV"), ("volume", "Å^3"))
    ]
    with serve(documents, tmp_path_factory.mktemp("server"), prefix="oqmd", fields=described) as running:
        yield running


@pytest.fixture
def client(server):
    server.faults.plan.clear()
    server.faults.asked.clear()
    return Optimade(dataclasses.replace(PROVIDERS["oqmd"], url=server.url), page_limit=5)


@pytest.fixture
def slept():
    return []


@pytest.fixture
def retry(slept):
    return functools.partial(with_retries, attempts=4, sleep=slept.append)


def records(client, query, fields=FIELDS, **more):
    return [record for page in client.pages(query, fields, **more) for record in page.records]


def ids(client, query, **more):
    return {record.id for record in records(client, query, **more)}


def named(condition):
    return {name for name, atoms in CRYSTALS.items() if condition(name, atoms)}


def test_no_network_before_it_is_asked(server):
    server.faults.asked.clear()
    Optimade(server.url).pages(Query(), [])
    assert not server.faults.asked


def test_all_records_once_in_pages(client, server):
    pages = list(client.pages(Query(), FIELDS))
    result = [record.id for page in pages for record in page.records]
    assert sorted(result) == sorted(CRYSTALS)
    assert [len(page.records) for page in pages] == [5] * (len(CRYSTALS) // 5) + [len(CRYSTALS) % 5]
    assert {page.total for page in pages} == {len(CRYSTALS)}
    assert len(server.faults.asked) == len(pages)


def test_only_what_is_needed_is_asked_for(client, server):
    records(client, Query(elements=("Li",)), ["band_gap"])
    asked = set(server.faults.asked[0]["response_fields"][0].split(","))
    assert "_oqmd_band_gap" in asked
    assert not any("delta_e" in name for name in asked)
    assert "elements_ratios" not in asked


def test_structures_are_those_of_a_second_library(client, server):
    """pymatgen and ASE objects made by the server's own adapters from the same answer."""
    import requests
    from optimade.adapters import Structure
    from pymatgen.analysis.structure_matcher import StructureMatcher
    from pymatgen.io.ase import AseAtomsAdaptor

    answer = requests.get(f"{server.url}/v1/structures", params={"page_limit": 50}, timeout=10).json()
    ours = {record.id: record.atoms for record in records(client, Query())}
    match = StructureMatcher(scale=False, primitive_cell=False)
    for resource in answer["data"]:
        theirs, atoms = Structure(resource), ours[resource["id"]]
        np.testing.assert_allclose(atoms.positions, theirs.as_ase.positions, atol=1e-12)
        np.testing.assert_allclose(atoms.cell.array, theirs.as_ase.cell.array, atol=1e-12)
        assert atoms.get_chemical_symbols() == theirs.as_ase.get_chemical_symbols()
        assert match.fit(AseAtomsAdaptor.get_structure(atoms), theirs.as_pymatgen)


def test_values_in_our_names_and_units(client):
    result = {record.id: record.values for record in records(client, Query())}
    for k, name in enumerate(CRYSTALS):
        assert result[name]["formation_energy_per_atom"] == pytest.approx(DELTA_E[name])
        # OQMD's distance is negative for a compound on the hull
        assert result[name]["energy_above_hull"] == pytest.approx(max(0.0, STABILITY[name]))
        assert ("band_gap" in result[name]) == (k % 3 == 0)


def test_words_say_the_functional(client):
    assert {record.words["functional"] for record in records(client, Query(limit=3))} == {"PBE and PBE+U"}


@pytest.mark.parametrize(
    ("query", "condition"),
    [
        (Query(elements=("O",)), lambda name, atoms: "O" in atoms.get_chemical_symbols()),
        (Query(elements=("Li", "O")), lambda name, atoms: name == "LiNiO2"),
        (
            Query(elements=("O",), exclude_elements=("Ti", "Li")),
            lambda name, atoms: "O" in atoms.symbols and not {"Ti", "Li"} & set(atoms.symbols),
        ),
        (Query(chemsys=("Mg-O",)), lambda name, atoms: set(atoms.symbols) == {"Mg", "O"}),
        (Query(chemsys=("O-Ni", "Cu")), lambda name, atoms: set(atoms.symbols) in ({"Ni", "O"}, {"Cu"})),
        (
            Query(chemsys=("Mg-O", "Ni-O"), max_atoms=2),
            lambda name, atoms: set(atoms.symbols) in ({"Mg", "O"}, {"Ni", "O"}) and len(atoms) <= 2,
        ),
        (Query(formula=("MgO",)), lambda name, atoms: atoms.symbols.formula.reduce()[0].format("hill") == "MgO"),
        (Query(formula=("SrTiO3", "Cu")), lambda name, atoms: name in ("SrTiO3", "Cu")),
        (Query(ids=("Cu", "MgO-cubic", "not there")), lambda name, atoms: name in ("Cu", "MgO-cubic")),
        (Query(max_atoms=1), lambda name, atoms: len(atoms) == 1),
        (
            Query(ranges={"formation_energy_per_atom": (-1.0, -0.35)}),
            lambda name, atoms: -1.0 <= DELTA_E[name] <= -0.35,
        ),
        (Query(ranges={"band_gap": (1.0, None)}), lambda name, atoms: list(CRYSTALS).index(name) % 3 == 0),
        (Query(stable=True), lambda name, atoms: STABILITY[name] <= 1e-6),
        (Query(stable=False, elements=("O",)), lambda name, atoms: STABILITY[name] > 1e-6 and "O" in atoms.symbols),
    ],
)
def test_filters_count_what_we_count(client, query, condition):
    expected = named(condition)
    assert expected
    assert ids(client, query) == expected


def test_limit(client, server):
    result = list(client.pages(Query(limit=7), FIELDS))
    assert [len(page.records) for page in result] == [5, 2]
    assert result[-1].total == 7
    assert len(server.faults.asked) == 2


@pytest.mark.parametrize("broken_after", [None, 1, 2, 3])
def test_more_ids_than_an_address_holds(client, server, monkeypatch, broken_after):
    monkeypatch.setattr("cgcnn_ase.sources.optimade.client._MOST_IDS", 7)
    query = Query(ids=tuple(CRYSTALS))
    result, cursor = [], None
    for page, _ in zip(client.pages(query, FIELDS), range(broken_after or 99), strict=False):
        result += [record.id for record in page.records]
        cursor = page.cursor
    if broken_after:
        result += [record.id for record in records(client, query, after=cursor)]
    assert sorted(result) == sorted(CRYSTALS)
    assert max(asked["filter"][0].count("id=") for asked in server.faults.asked) == 7


def test_limit_of_what_is_chosen_here_reads_full_pages(client, server):
    query = Query(ranges={"energy_above_hull": (0.5, None)}, limit=1)
    assert [record.id for record in records(client, query)] == [list(CRYSTALS)[15]]
    assert server.faults.asked[0]["page_limit"] == ["5"]


def test_no_distance_below_the_hull(client):
    assert records(client, Query(ranges={"energy_above_hull": (None, -0.1)})) == []


def test_no_record_is_an_empty_answer(client):
    assert records(client, Query(elements=("Fm",))) == []


@pytest.mark.parametrize("broken_after", range(1, 5))
def test_goes_on_after_a_break(client, server, broken_after):
    first, cursor = [], None
    for page, _ in zip(client.pages(Query(), FIELDS), range(broken_after), strict=False):
        first += [record.id for record in page.records]
        cursor = page.cursor
    again = Optimade(dataclasses.replace(PROVIDERS["oqmd"], url=server.url), page_limit=5)
    rest = [record.id for record in records(again, Query(), after=cursor)]
    assert sorted(first + rest) == sorted(CRYSTALS)


def test_limit_holds_across_a_break(client):
    page = next(client.pages(Query(limit=7), FIELDS))
    assert len(records(client, Query(limit=7), after=page.cursor)) == 2


def test_nothing_comes_after_the_last_page(client):
    *_, last = client.pages(Query(), FIELDS)
    assert records(client, Query(), after=last.cursor) == []


@pytest.mark.parametrize("fault", [500, 503, "cut", b'{"data": [', b"<html>busy</html>"])
def test_a_failure_in_between_loses_nothing(client, server, retry, slept, fault):
    server.faults.plan.extend([None, fault, None, fault, fault])
    assert sorted(record.id for record in records(client, Query(), retry=retry)) == sorted(CRYSTALS)
    assert len(slept) == 3


def test_a_slow_answer_is_asked_for_again(client, server, retry, slept):
    impatient = Optimade(client.provider, page_limit=50, timeout=0.2)
    server.faults.plan.append("slow")
    assert len(records(impatient, Query(), retry=retry)) == len(CRYSTALS)
    assert len(slept) == 1
    server.faults.plan.extend(["slow"] * 4)
    with pytest.raises(FetchError, match="no answer for 0.2 s"):
        records(impatient, Query(), retry=retry)


def test_too_many_requests_waits_as_asked(client, server, retry, slept):
    server.faults.plan.append(429)
    assert len(records(client, Query(), retry=retry)) == len(CRYSTALS)
    assert slept == [7.0]


def test_a_failure_that_stays_is_told(client, server, retry):
    server.faults.plan.extend([500] * 4)
    with pytest.raises(FetchError, match=r"server answers 500, out of order \(given up after 4 attempts\)"):
        records(client, Query(), retry=retry)


def test_no_server_is_told(retry, slept):
    with pytest.raises(FetchError, match=r"127\.0\.0\.1:9/v1/structures: the connection failed"):
        records(Optimade("http://127.0.0.1:9"), Query(), [], retry=retry)
    assert len(slept) == 3


def test_an_error_of_the_server_is_told_in_its_words(client, server, retry, slept):
    """page_limit beyond the server's own is answered by 403, a wrong filter by 400."""
    greedy = Optimade(dataclasses.replace(PROVIDERS["oqmd"], url=server.url), page_limit=51)
    with pytest.raises(FetchError, match="403, Forbidden: Max allowed page_limit is 50, you requested 51"):
        records(greedy, Query(), retry=retry)
    unknown = Optimade(server.url, properties={"band_gap": ("_oqmd_no_such", "eV")})
    with pytest.raises(FetchError, match=r"400, Bad Request: .*_oqmd_no_such"):
        records(unknown, Query(ranges={"band_gap": (0, 1)}), ["band_gap"], retry=retry)
    assert slept == []


def test_a_link_that_is_no_longer_taken(client, server, retry):
    page = next(client.pages(Query(), FIELDS))
    server.faults.plan.append(400)
    with pytest.raises(CursorError, match="400"):
        records(client, Query(), after=page.cursor, retry=retry)
    server.faults.plan.extend([503] * 4)  # out of order is no reason to read all again
    with pytest.raises(FetchError, match="503") as raised:
        records(client, Query(), after=page.cursor, retry=retry)
    assert not isinstance(raised.value, CursorError)
    with pytest.raises(CursorError, match="is none of an OPTIMADE answer"):
        records(client, Query(), after="17")


def page(*resources, next=None, **meta):
    return json.dumps({"data": resources, "meta": meta, "links": {"next": next}}).encode()


def copper(id="Cu", **attributes):
    known = {
        "lattice_vectors": [[0, 1.8, 1.8], [1.8, 0, 1.8], [1.8, 1.8, 0]],
        "cartesian_site_positions": [[0, 0, 0]],
        "species_at_sites": ["Cu"],
    }
    return {"id": id, "type": "structures", "attributes": known | attributes}


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (page(copper(), data_returned=3), "announced 3 records and sent 1; fetch again"),
        (page(copper(), more_data_available=True), "says there is more than 1 records, but gives no link"),
        (json.dumps({"errors": []}).encode(), "none of an OPTIMADE server"),
        (json.dumps({"data": {"id": "Cu"}}).encode(), "holds no list of structures"),
        (page({"attributes": {}}), "a structure without an id"),
        (
            json.dumps({"data": [copper()], "links": {"next": "https://h/v1/info?x=1"}}).encode(),
            "no page of structures",
        ),
    ],
)
def test_answers_that_lose_something_are_refused(client, server, answer, words):
    server.faults.plan.append(answer)
    with pytest.raises(FetchError, match=words):
        records(client, Query())


@pytest.mark.parametrize(
    ("query", "words"),
    [
        (Query(elements=("Li",)), "sends Cu, which is of the elements Cu: it does not keep to its own filter"),
        (Query(exclude_elements=("Cu",)), "is of the elements Cu"),
        (Query(formula=("MgO",)), "is Cu"),
        (Query(ids=("x",)), "is none of the ids"),
        (Query(ranges={"band_gap": (1, 2)}), "with band_gap 9, though 1:2 was asked for"),
    ],
)
def test_a_server_that_ignores_the_filter_is_found_out(client, server, query, words):
    server.faults.plan.append(page(copper(_oqmd_band_gap=9.0)))
    with pytest.raises(FetchError, match=words):
        records(client, query)


def test_what_is_not_known_is_absent(server):
    """JARVIS writes -99999 and "na" where nothing was computed, and numbers as ids happen."""
    jarvis = Optimade(dataclasses.replace(PROVIDERS["jarvis"], url=server.url))
    server.faults.plan.append(
        page(
            copper(7, _jarvis_ehull=-99999, _jarvis_optb88vdw_bandgap="na", _jarvis_formation_energy_peratom=0.0),
            copper("bad", _jarvis_ehull="low"),
            copper("nan", _jarvis_ehull=float("nan")),
        )
    )
    (result,) = jarvis.pages(Query(), FIELDS)
    assert [(record.id, record.values) for record in result.records] == [("7", {"formation_energy_per_atom": 0.0})]
    assert [id for id, _ in result.refused] == ["bad", "nan"]
    assert result.refused[0][1] == "its _jarvis_ehull is 'low', no finite number"


def test_a_disordered_record_is_refused_and_the_others_stay(client, server):
    half = [{"name": "Cu", "chemical_symbols": ["Cu", "vacancy"], "concentration": [0.5, 0.5]}]
    server.faults.plan.append(page(copper("half", species=half), copper()))
    (result,) = client.pages(Query(), FIELDS)
    assert [record.id for record in result.records] == ["Cu"]
    assert result.refused == (("half", "species 'Cu' is a vacancy to 0.5"),)


def test_values_in_dictionaries_are_chosen_here(tmp_path):
    """The Materials Project keeps a dictionary of correction schemes; servers cannot compare what is inside."""
    documents = [
        document(name, atoms, stability={"gga_gga+u": {"energy_above_hull": 0.1 * k}, "r2scan": None})
        for k, (name, atoms) in enumerate(CRYSTALS.items())
    ]
    with serve(documents, tmp_path, prefix="mp", fields=["stability"]) as running:
        client = Optimade(dataclasses.replace(PROVIDERS["mp-optimade"], url=running.url), page_limit=5)
        result = records(client, Query(ranges={"energy_above_hull": (None, 0.35)}), ["energy_above_hull"])
        assert [record.values["energy_above_hull"] for record in result] == pytest.approx([0, 0.1, 0.2, 0.3])
        assert "filter" not in running.faults.asked[0]
        other = Optimade(dataclasses.replace(PROVIDERS["mp-optimade-r2scan"], url=running.url))
        assert not any(record.values for record in records(other, Query(), ["energy_above_hull"]))


def test_own_properties_with_units(tmp_path):
    """Energies of the cell in Ry and of the atom in meV, filtered in our units."""
    documents = [
        document(name, atoms, energy=-2.0 * len(atoms), gap=100.0 * k)
        for k, (name, atoms) in enumerate(CRYSTALS.items())
    ]
    properties = {"energy_per_atom": ("_aiida_energy", "Ry/cell"), "band_gap": ("_aiida_gap", "meV")}
    with serve(documents, tmp_path, prefix="aiida", fields=["energy", "gap"], page_limit_max=50) as running:
        client = Optimade(f"{running.url}/v1/", properties=properties)
        result = records(client, Query(ranges={"band_gap": (0.25, 0.55)}), ["energy_per_atom", "band_gap"])
        assert [record.values["band_gap"] for record in result] == pytest.approx([0.3, 0.4, 0.5])
        assert "_aiida_gap>=250 AND _aiida_gap<=550" in running.faults.asked[0]["filter"][0]
        # 13.605693 eV, the CODATA value, times -2 Ry an atom
        assert all(record.values["energy_per_atom"] == pytest.approx(-27.211386, abs=1e-6) for record in result)
        assert "not known" in client.credit([]).licence


def test_version_and_units_are_asked_of_the_server(client, server):
    version = client.version()
    assert f"{len(CRYSTALS)} records" in version
    assert "OPTIMADE Python Tools" in version
    wrong = dataclasses.replace(PROVIDERS["oqmd"].properties["band_gap"], unit="meV")
    properties = {**PROVIDERS["oqmd"].properties, "band_gap": wrong}
    other = Optimade(dataclasses.replace(PROVIDERS["oqmd"], url=server.url, properties=properties))
    with pytest.raises(FetchError, match=r"server states the unit 'eV' for _oqmd_band_gap, we know 'meV'"):
        other.version()
    theirs = Optimade(other.provider, properties={"band_gap": ("_oqmd_band_gap", "meV")})
    assert theirs.version() == version


def test_a_link_with_another_host_is_asked_of_the_same_server(client, server):
    """Servers behind a proxy name hosts that only they can see."""
    rest = "page_offset=1&response_fields=lattice_vectors,cartesian_site_positions,species_at_sites"
    server.faults.plan.append(page(copper(), next={"href": f"http://hidden:8080/x/v1/structures?{rest}"}))
    assert len(records(client, Query())) == len(CRYSTALS)
    assert server.faults.asked[1]["page_offset"] == ["1"]


def test_a_link_that_leads_nowhere(client, server):
    same = page(copper(), next="/v1/structures?lattice_vectors&page_offset=1")
    server.faults.plan.extend([same, same])
    with pytest.raises(FetchError, match="leads to the same page again"):
        records(client, Query())


def test_the_server_s_own_page_size_where_ours_is_too_large(client, server):
    greedy = Optimade(dataclasses.replace(PROVIDERS["oqmd"], url=server.url, page_limit=51))
    assert len(records(greedy, Query())) == len(CRYSTALS)
    assert "page_limit" not in server.faults.asked[1]


def test_what_the_server_warns_of_is_passed_on_once(client, server):
    told = [{"type": "warning", "detail": "nsites is\nnot known here"}]
    first = page(copper(), warnings=told * 2, next="/structures?page_offset=1&response_fields=lattice_vectors")
    server.faults.plan.extend([first, page(copper("Cu2"), warnings=told)])
    with pytest.warns(UserWarning, match="oqmd: the server warns: nsites is not known here") as warned:
        assert len(records(client, Query())) == 2
    assert len([warning for warning in warned if warning.category is UserWarning]) == 1


def test_who_stands_behind_a_url(server):
    client = Optimade(server.url, properties={"band_gap": ("_oqmd_band_gap", "eV")})
    client.version()
    assert client.credit([]).citations[0] == "Test crystals, https://example.org/"


def test_the_server_asks_to_wait_between_requests(tmp_path):
    documents = [document(name, CRYSTALS[name]) for name in ("Cu", "Al", "Ni")]
    waited = []
    with serve(documents, tmp_path, request_delay=1.5) as running:
        client = Optimade(running.url, page_limit=1, sleep=waited.append)
        assert len(records(client, Query(), [])) == 3
    assert waited == [1.5, 1.5]


def test_fetch_to_a_folder_resume_and_offline(client, server, tmp_path, monkeypatch):
    output, cache = tmp_path / "oqmd", tmp_path / "cache"
    server.faults.plan.extend([None, None, 400])
    with pytest.raises(FetchError, match="400"):
        fetch(client, Query(), output, fields=FIELDS, cache=cache)
    assert not output.exists()
    server.faults.asked.clear()
    provenance = fetch(client, Query(), output, fields=FIELDS, cache=cache)
    assert [int(asked["page_offset"][0]) for asked in server.faults.asked] == list(range(10, len(CRYSTALS), 5))
    assert provenance.n_records == len(CRYSTALS)
    assert provenance.licence == "CC BY 4.0"
    assert {name: len(atoms) for name, atoms in load_packed(output / "structures.npz").atoms()} == {
        name: len(atoms) for name, atoms in CRYSTALS.items()
    }
    server.faults.asked.clear()
    monkeypatch.setattr("requests.Session.request", None)  # a request would be an error
    offline = fetch(client, Query(), tmp_path / "again", fields=FIELDS, cache=cache, offline=True)
    assert offline.as_dict() == provenance.as_dict()
    assert (tmp_path / "again/properties.csv.gz").read_bytes() == (output / "properties.csv.gz").read_bytes()
    assert not server.faults.asked


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("oqdm", "did you mean oqmd"),
        ("ftp://x.org", "needed is the base URL"),
        ("https://user:secret@x.org/optimade", "needed is the base URL"),
        ("https://x.org/optimade?key=1", "needed is the base URL"),
    ],
)
def test_bad_providers(url, words):
    with pytest.raises(ValueError, match=words):
        Optimade(url)


def test_bad_questions(client):
    with pytest.raises(ValueError, match="unknown field 'band_gab'; did you mean band_gap"):
        client.pages(Query(), ["band_gab"])
    with pytest.raises(ValueError, match="unknown range of 'K_VRH'"):
        client.pages(Query(ranges={"K_VRH": (0, 1)}), [])
    with pytest.raises(ValueError, match="whole numbers of atoms"):
        client.pages(Query(formula=("Li0.5NiO2",)), [])
    with pytest.raises(ValueError, match=r"band_gap: the unit 'eV/atom' cannot be converted exactly; allowed are eV,"):
        Optimade("https://x.org", properties={"band_gap": ("_x_gap", "eV/atom")})
    with pytest.raises(ValueError, match="page_limit=0"):
        Optimade("oqmd", page_limit=0)
