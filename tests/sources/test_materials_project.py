"""The real mp-api client against a server on this machine that speaks its interface and fails as real ones do."""

import csv
import gzip
import json
import logging
import re
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("mp_api")

from cgcnn_ase.core.errors import FetchError
from cgcnn_ase.sources.client import CursorError, Query, with_retries
from cgcnn_ase.sources.fetch import fetch
from cgcnn_ase.sources.materials_project import MaterialsProject
from cgcnn_ase.sources.materials_project.http import NoKeyError, find_key
from cgcnn_ase.structures import read_structures

from ..local_servers import server_module

mps = server_module("materials_project_server")
bases = server_module("materials_project_crystals").bases

N = 44  # each crystal once, four of them twice


@pytest.fixture(scope="module")
def running():
    with mps.serve(N) as server:
        yield server


@pytest.fixture
def server(running):
    """The server, with nothing of another test left in it."""
    running.faults = mps.Faults()
    running.change = lambda route, document: document
    running.db_version = mps.DB_VERSION
    running.log.clear()
    return running


@pytest.fixture
def client(server):
    return MaterialsProject(mps.KEY, server.url)


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    monkeypatch.setattr("cgcnn_ase.sources.client.time", SimpleNamespace(sleep=lambda _: None))
    monkeypatch.delenv("MP_API_KEY", raising=False)


def get(client, tmp_path, query=None, fields=("formation_energy_per_atom",), name="out", **more):
    provenance = fetch(client, query or Query(), tmp_path / name, fields=fields, cache=tmp_path / "cache", **more)
    with gzip.open(tmp_path / name / "properties.csv.gz", "rt") as lines:
        return provenance, {row["id"]: row for row in csv.DictReader(lines)}


def crystals(server):
    """What the server has, by id."""
    return {name: server.database.crystal(name) for name in server.database.ids}


# What the documents are


def test_the_documents_are_those_of_the_published_models(server):
    """Each is read by the published model without a word about a field that is missing or of another type."""
    from emmet.core.elasticity import ElasticityDoc
    from emmet.core.electrode import InsertionElectrodeDoc
    from emmet.core.magnetism import MagnetismDoc
    from emmet.core.summary import SummaryDoc
    from emmet.core.thermo import ThermoDoc

    models = (SummaryDoc, ThermoDoc, ElasticityDoc, MagnetismDoc, InsertionElectrodeDoc)
    seen = dict.fromkeys(mps.ROUTES, 0)
    for route, model in zip(mps.ROUTES, models, strict=True):
        for name in server.database.ids[:30]:
            for document in server.database.documents(route, name):
                model.model_validate(document)
                seen[route] += 1
    assert min(seen.values()) > 5


# What comes back


def test_all_records_with_the_energies_and_structures_of_one_scheme(server, client, tmp_path):
    provenance, rows = get(client, tmp_path)
    made = crystals(server)
    assert set(rows) == set(made)
    assert list(rows) == sorted(rows, key=lambda name: int(name.removeprefix("mp-")))
    for name, crystal in made.items():
        assert float(rows[name]["formation_energy_per_atom"]) == pytest.approx(crystal.formation_energy)
        assert rows[name]["reduced_formula"] == crystal.composition.reduced_formula
        assert rows[name]["run_type"] in ("GGA", "GGA+U")
        assert (rows[name]["functional"], rows[name]["corrections"]) == ("PBE and PBE+U", "MP2020")
    for record in read_structures([tmp_path / "out" / "structures.npz"]):
        atoms, crystal = record.unwrap(), made[record.id]
        # the cell that this energy is of; that of the summary is of r2SCAN and 1 % shorter for half of them
        assert atoms.get_volume() == pytest.approx(crystal.structure.volume, rel=1e-9)
        assert sorted(atoms.numbers) == sorted(site.specie.Z for site in crystal.structure)
    assert provenance.database_version == mps.DB_VERSION
    assert provenance.licence == "CC BY 4.0"
    assert "APL Materials 1, 011002 (2013)" in provenance.citations[0]
    assert len(provenance.citations) == 1


def test_r2scan_is_another_data_set(server, tmp_path):
    provenance, rows = get(MaterialsProject(mps.KEY, server.url, "R2SCAN"), tmp_path)
    made = {name: crystal for name, crystal in crystals(server).items() if crystal.has_r2scan}
    assert set(rows) == set(made)
    assert provenance.n_refused == N - len(made)
    refused = (tmp_path / "out" / "refused.csv").read_text()
    assert refused.count("the database has no energy of it with R2SCAN") == N - len(made)
    for name, row in rows.items():
        assert float(row["formation_energy_per_atom"]) == pytest.approx(made[name].formation_energy - 0.9)
        assert (row["functional"], row["run_type"]) == ("r2SCAN", "r2SCAN")
    assert provenance.settings == {"thermo_type": "R2SCAN"}
    for record in read_structures([tmp_path / "out" / "structures.npz"]):
        assert record.unwrap().get_volume() == pytest.approx(0.99**3 * made[record.id].structure.volume)


def test_a_server_that_answers_with_another_scheme_is_not_believed(server, client, tmp_path):
    server.change = lambda route, document: (
        {**document, "thermo_type": "R2SCAN"} if route == "thermo" and document["material_id"] == "mp-7" else document
    )
    _, rows = get(client, tmp_path)
    assert len(rows) == N - 1
    assert 'mp-7,"its energies are of R2SCAN, not of GGA_GGA+U"' in (tmp_path / "out" / "refused.csv").read_text()


FIELDS = {
    "band_gap": lambda c: c.gap,
    "efermi": lambda c: c.gap / 2,
    "is_metal": lambda c: float(c.gap == 0),
    "total_magnetization": lambda c: c.moment,
    "magnetization_per_formula_unit": lambda c: c.moment / c.composition.get_reduced_composition_and_factor()[1],
    "energy_per_atom": lambda c: c.energy,
    "uncorrected_energy_per_atom": lambda c: c.energy + 0.1,
    "energy_above_hull": lambda c: round(25 * c.strain**2, 6),
    "is_stable": lambda c: float(c.strain == 0),
    "volume": lambda c: c.structure.volume,
    "density": lambda c: c.structure.density,
    "K_VRH": lambda c: c.bulk_modulus if c.has_elasticity else None,
    "G_VRH": lambda c: 0.6 * c.bulk_modulus if c.has_elasticity else None,
    "poisson": lambda c: 0.25 if c.has_elasticity else None,
}


def test_every_property_in_our_units(server, client, tmp_path):
    provenance, rows = get(client, tmp_path, fields=list(FIELDS))
    made = crystals(server)
    assert len(rows) == N
    for name, truth in FIELDS.items():
        for key, row in rows.items():
            expected = truth(made[key])
            if expected is None:
                assert row[name] == ""
            else:
                assert float(row[name]) == pytest.approx(expected, rel=1e-3), (key, name)
    assert [any(word in text for text in provenance.citations) for word in ("011002", "150009", "5, 64")] == [True] * 3


def test_moduli_alone_list_only_what_has_them(server, client, tmp_path):
    _, rows = get(client, tmp_path, fields=["K_VRH", "G_VRH"])
    assert set(rows) == {name for name, crystal in crystals(server).items() if crystal.has_elasticity}


def test_electrodes_are_the_discharged_host_with_voltage_and_capacity(server, client, tmp_path):
    _, rows = get(client, tmp_path, fields=["average_voltage", "capacity_grav"])
    layered = {
        f"{n}_Li": c for n, c in crystals(server).items() if {"Li", "O"} < set(c.composition.chemical_system.split("-"))
    }
    assert set(rows) == set(layered)
    lithium_nickel = next(row for row in rows.values() if row["reduced_formula"] == "LiNiO2")
    assert float(lithium_nickel["capacity_grav"]) == pytest.approx(274.5, abs=0.1)  # F / (3.6 M), all of the lithium
    assert {row["working_ion"] for row in rows.values()} == {"Li"}
    for record in read_structures([tmp_path / "out" / "structures.npz"]):
        assert 3 in record.unwrap().numbers
    _, few = get(client, tmp_path, Query(ids=("mp-172_Li",)), ["average_voltage"], "few")
    assert list(few) == ["mp-172_Li"]
    _, some = get(client, tmp_path, Query(chemsys=("Li-Ni-O",)), ["average_voltage"], "some")
    assert {row["reduced_formula"] for row in some.values()} == {"LiNiO2"}


QUERIES = {
    "elements": (Query(elements=("Li", "O")), lambda c: {"Li", "O"} <= set(c.composition.chemical_system.split("-"))),
    "excluded": (Query(exclude_elements=("O",)), lambda c: "O" not in c.composition),
    "formula": (Query(formula=("LiNiO2", "MgO")), lambda c: c.composition.reduced_formula in ("LiNiO2", "MgO")),
    "chemsys": (Query(chemsys=("O-Ni", "Li-Co-O")), lambda c: c.composition.chemical_system in ("Ni-O", "Co-Li-O")),
    "small": (Query(max_atoms=2), lambda c: len(c.structure) <= 2),
    "stable": (Query(stable=True), lambda c: c.strain == 0),
    "off the hull": (Query(stable=False), lambda c: c.strain != 0),
    "gap": (Query(ranges={"band_gap": (1.0, 2.0)}), lambda c: 1.0 <= c.gap <= 2.0),
    "near the hull": (Query(ranges={"energy_above_hull": (None, 0.002)}), lambda c: 25 * c.strain**2 <= 0.002),
    "bound": (Query(ranges={"formation_energy_per_atom": (None, -1.0)}), lambda c: c.formation_energy <= -1.0),
    "stiff": (Query(ranges={"K_VRH": (60, None)}), lambda c: c.has_elasticity and c.bulk_modulus >= 60),
    "metals": (Query(ranges={"is_metal": (1, 1)}), lambda c: c.gap == 0),
    "two": (Query(elements=("O",), ranges={"band_gap": (0.5, None)}), lambda c: "O" in c.composition and c.gap >= 0.5),
}


@pytest.mark.parametrize("name", QUERIES)
def test_queries_give_what_counting_gives(server, client, tmp_path, name):
    query, fits = QUERIES[name]
    _, rows = get(client, tmp_path, query)
    expected = {key for key, crystal in crystals(server).items() if fits(crystal)}
    assert 0 < len(expected) < N
    assert set(rows) == expected
    assert not (tmp_path / "out" / "refused.csv").exists()


def test_a_server_that_ignores_a_condition_does_not_widen_the_answer(server, client, tmp_path, monkeypatch):
    fits = mps._one_fits
    monkeypatch.setattr(
        mps, "_one_fits", lambda result, name, value: name != "thermo_types" or fits(result, name, value)
    )
    _, rows = get(client, tmp_path, Query(ranges={"band_gap": (1.0, 2.0)}))
    assert set(rows) == {key for key, crystal in crystals(server).items() if 1.0 <= crystal.gap <= 2.0}
    assert "outside the range asked for" in (tmp_path / "out" / "refused.csv").read_text()


def test_ids_in_both_forms_and_ids_that_are_not_there(server, client, tmp_path):
    from emmet.core.mpid import AlphaID

    query = Query(ids=(str(AlphaID("mp-18")), "mp-7", "mp-99999"))
    _, rows = get(client, tmp_path, query)
    assert list(rows) == ["mp-7", "mp-18"]
    assert 'mp-99999,"the database has no such record' in (tmp_path / "out" / "refused.csv").read_text()
    server.change = lambda route, document: {**document, "material_id": str(AlphaID(document["material_id"]))}
    _, again = get(client, tmp_path, name="letters")
    assert len(again) == N
    assert "mp-18" in again


def test_limit_takes_the_first(server, client, tmp_path):
    _, rows = get(client, tmp_path, Query(limit=7))
    assert list(rows) == [f"mp-{11 * k + 7}" for k in range(7)]


# Pages


def test_pages_and_cursors(server, client, monkeypatch):
    monkeypatch.setattr("cgcnn_ase.sources.materials_project.client.AT_ONCE", 16)
    whole = list(client.pages(Query(), ["band_gap"]))
    assert [len(page.records) for page in whole] == [16, 16, 12]
    assert {page.total for page in whole} == {N}
    for k, page in enumerate(whole):
        rest = list(client.pages(Query(), ["band_gap"], after=page.cursor))
        assert [[r.id for r in p.records] for p in rest] == [[r.id for r in p.records] for p in whole[k + 1 :]]
    with pytest.raises(CursorError, match="lists other records"):
        next(client.pages(Query(elements=("O",)), ["band_gap"], after=whole[0].cursor))


def test_the_list_is_read_to_its_end_in_any_order(server, client, monkeypatch):
    monkeypatch.setattr("cgcnn_ase.sources.materials_project.listing._LISTED", 13)
    rng = np.random.default_rng(0)
    monkeypatch.setattr(server.database, "ids", rng.permutation(server.database.ids).tolist())
    result = [record.id for page in client.pages(Query(), ["band_gap"]) for record in page.records]
    assert result == [f"mp-{11 * k + 7}" for k in range(N)]
    listed = [asked for path, asked in server.log if asked.get("_fields") == "material_id"]
    assert [asked["_page"] for asked in listed] == ["1", "2", "3", "4", "5"]  # the last is empty
    assert all(asked["_per_page"] == "13" for asked in listed)


def test_a_list_that_changes_while_it_is_read_is_refused(server, client, monkeypatch):
    monkeypatch.setattr("cgcnn_ase.sources.materials_project.listing._LISTED", 20)
    original = mps.MaterialsProjectServer.search
    monkeypatch.setattr(
        mps.MaterialsProjectServer,
        "search",
        lambda self, route, asked: original(
            self, route, {**asked, "_page": "1"} if asked.get("_page") == "2" else asked
        ),
    )
    with pytest.raises(FetchError, match="gave 20 ids twice: its list changed"):
        next(client.pages(Query(), ["band_gap"]))


def test_the_interface_alone_is_asked_and_never_for_everything_at_once(server, client, tmp_path):
    """Without a condition the client would read whole tables from object storage."""
    get(client, tmp_path)
    assert {path for path, _ in server.log} == {"heartbeat", "materials/summary", "materials/thermo"}
    assert all("_fields" in asked for path, asked in server.log if path != "heartbeat")


def test_nothing_is_asked_when_a_client_is_made(server):
    MaterialsProject(mps.KEY, server.url)
    assert len(server.log) == 0


# Faults


@pytest.mark.parametrize("kind", ["429", "500", "cut", "refused"])
def test_a_failure_is_passed_over(server, client, tmp_path, kind):
    told = []
    server.faults.queue.extend([None, kind, None, kind, kind])
    _, rows = get(client, tmp_path, say=told.append)
    assert len(rows) == N
    words = {"429": "too many requests (HTTP 429)", "500": "the server failed (HTTP 500)", "cut": "cut off",
             "refused": "cannot be reached"}[kind]  # fmt: skip
    assert len(told) == 3
    assert all(words in line for line in told)


@pytest.mark.slow
def test_many_failures_lose_and_double_nothing(server, client, tmp_path, monkeypatch):
    monkeypatch.setattr("cgcnn_ase.sources.materials_project.client.AT_ONCE", 3)
    monkeypatch.setattr("cgcnn_ase.sources.materials_project.listing._LISTED", 7)
    server.faults = mps.Faults(rate=0.2, kinds=("500", "429", "cut", "refused"), seed=5)
    provenance, rows = get(client, tmp_path, attempts=12)
    assert sum(server.faults.given.values()) > 5
    assert sorted(rows) == sorted(server.database.ids)
    assert (provenance.n_records, provenance.n_doubled, provenance.n_refused) == (N, 0, 0)


def test_a_server_that_asks_to_wait_is_waited_for(server, client):
    waits = []
    server.faults.retry_after = 17
    server.faults.queue.append("429")
    pages = client.pages(Query(), ["band_gap"], retry=partial(with_retries, sleep=waits.append))
    assert sum(len(page.records) for page in pages) == N
    assert waits == [17.0]


def test_a_slow_answer_is_given_up_and_asked_again(server, tmp_path):
    server.faults.queue.extend([None, "slow"])
    server.faults.delay = 3.0
    told = []
    _, rows = get(MaterialsProject(mps.KEY, server.url, timeout=0.5), tmp_path, say=told.append)
    assert len(rows) == N
    assert any("no answer in time" in line for line in told)


def test_it_gives_up_in_words_and_goes_on_later(server, client, tmp_path, monkeypatch):
    monkeypatch.setattr("cgcnn_ase.sources.materials_project.client.AT_ONCE", 16)
    server.faults.queue.extend([None, None, None, "500"] + ["500"] * 5)  # of the list, of the list, of a page
    with pytest.raises(FetchError, match=r"the server failed \(HTTP 500\) \(given up after 6 attempts\)"):
        get(client, tmp_path)
    told = []
    _, rows = get(client, tmp_path, say=told.append)
    assert told == ["16 records are in the cache already; going on"]
    assert sorted(rows) == sorted(server.database.ids)


def test_an_address_where_nobody_answers(tmp_path):
    with pytest.raises(FetchError, match=r"cannot be reached at http://127.0.0.1:9/heartbeat"):
        get(MaterialsProject(mps.KEY, "http://127.0.0.1:9"), tmp_path, attempts=2)
    with pytest.raises(ValueError, match="endpoint 'ftp://x': an address that begins with https://"):
        MaterialsProject(mps.KEY, "ftp://x")


def test_another_server_is_told_from_this_interface(server, tmp_path):
    with pytest.raises(FetchError, match=r"there is nothing at .*/nowhere/heartbeat \(HTTP 404\)|answer is cut off"):
        get(MaterialsProject(mps.KEY, f"{server.url}/nowhere"), tmp_path, attempts=1)


# What a server of tomorrow may send


def without(*names):
    return lambda route, document: {k: v for k, v in document.items() if k not in names}


DRIFT = {
    "a new field": (lambda route, document: {**document, "energy_of_tomorrow": 1.0}, N, None),
    "no space group": (without("symmetry"), N, None),
    "no energies": (without("formation_energy_per_atom"), 0, "the database has no formation_energy_per_atom of it"),
    "no entries": (without("entries"), N, None),  # the summary's structures, and it is said
    "no ids": (without("material_id"), 0, "a document has no material_id"),
    "no structures": (without("entries", "structure"), 0, "the database gives no structure"),
    "text for a number": (
        lambda route, document: {**document, "formation_energy_per_atom": "low"}, 0,
        "its formation_energy_per_atom is 'low', no number",
    ),
    "another structure": (
        lambda route, document: {**document, "entries": None, "structure": {"cell": 1}}, 0,
        "its structure cannot be read: KeyError",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", DRIFT)
def test_changed_documents_are_used_or_refused_in_words(server, client, tmp_path, name):
    change, n, words = DRIFT[name]
    server.change = change
    if n == 0:
        with pytest.raises(FetchError, match=re.escape(words)):
            get(client, tmp_path)
        return
    _, rows = get(client, tmp_path)
    assert len(rows) == n
    assert {row["geometry"] for row in rows.values()} == ({"summary"} if name == "no entries" else {"GGA", "GGA+U"})


def test_an_electrode_without_a_discharged_host_is_refused(server, client, tmp_path):
    def change(route, document):
        if route != "insertion_electrodes" or document["material_ids"] != ["mp-172"]:
            return document
        return {**document, "id_discharge": None}

    server.change = change
    provenance, rows = get(client, tmp_path, fields=["average_voltage"])
    assert "mp-172_Li" not in rows
    assert provenance.n_refused == 1


def test_overlapping_and_disordered_crystals_are_refused(server, client, tmp_path):
    def change(route, document):
        if route != "thermo" or document["material_id"] not in ("mp-7", "mp-18"):
            return document
        broken = json.loads(json.dumps(document))
        for entry in broken["entries"].values():
            if document["material_id"] == "mp-7":
                entry["structure"]["sites"][1]["abc"] = [0.01, 0, 0]
            else:
                entry["structure"]["sites"][0]["species"][0]["occu"] = 0.5
        return broken

    server.change = change
    _, rows = get(client, tmp_path)
    assert len(rows) == N - 2
    refused = (tmp_path / "out" / "refused.csv").read_text()
    assert "overlap" in refused
    assert "partially occupied" in refused


# The key


@pytest.mark.parametrize("status", [401, 403])
def test_a_wrong_key_is_refused_at_once(server, tmp_path, status, monkeypatch):
    monkeypatch.setattr(server, "refusal", status)
    told = []
    with pytest.raises(FetchError, match=rf"the key is not accepted; get one at https://.* \(HTTP {status}\)$"):
        get(MaterialsProject("f" * 32, server.url), tmp_path, say=told.append)
    assert told == []


@pytest.fixture
def configured(monkeypatch):
    """Where a key may be; all empty."""
    from ase.config import cfg
    from pymatgen.core import SETTINGS

    cfg.parser.remove_section("materials-project")
    monkeypatch.delitem(SETTINGS, "PMG_MAPI_KEY", raising=False)
    yield cfg.parser, SETTINGS
    cfg.parser.remove_section("materials-project")


def test_where_a_key_is_looked_for(configured, monkeypatch):
    parser, settings = configured
    keys = {name: name[0] * 32 for name in ("given", "environment", "ase", "pymatgen", "told")}

    def ask():
        return keys["told"]

    with pytest.raises(NoKeyError, match="set MP_API_KEY, or api_key in .materials-project. .* or PMG_MAPI_KEY"):
        find_key()
    assert find_key(ask=ask) == keys["told"]
    monkeypatch.setitem(settings, "PMG_MAPI_KEY", keys["pymatgen"])
    assert find_key(ask=ask) == keys["pymatgen"]
    parser.read_dict({"materials-project": {"api_key": keys["ase"]}})
    assert find_key(ask=ask) == keys["ase"]
    monkeypatch.setenv("MP_API_KEY", keys["environment"])
    assert find_key(ask=ask) == keys["environment"]
    assert find_key(keys["given"], ask=ask) == keys["given"]
    monkeypatch.setenv("MP_API_KEY", "secret-and-short")
    with pytest.raises(NoKeyError, match="MP_API_KEY: a key .* has 32 letters and digits, this one 16 char") as error:
        find_key()
    assert "secret" not in str(error.value)


def test_without_a_key_nothing_is_asked(server, configured, tmp_path):
    with pytest.raises(NoKeyError, match="the Materials Project needs a key"):
        get(MaterialsProject(endpoint=server.url), tmp_path)
    assert len(server.log) == 0


def test_offline_needs_neither_key_nor_network(server, client, configured, tmp_path):
    get(client, tmp_path)
    server.log.clear()
    _, rows = get(MaterialsProject(endpoint=server.url), tmp_path, name="offline", offline=True)
    assert len(rows) == N
    assert len(server.log) == 0


def test_the_key_is_written_nowhere(server, client, tmp_path, caplog, capfd):
    """Not into a file, a message, an error, a log or a representation, whatever goes wrong."""
    caplog.set_level(logging.DEBUG)
    told = []
    server.faults.queue.extend(["500", "429", "cut", None, "refused"])
    get(client, tmp_path, say=told.append)
    for fault in ("500", "cut", "refused"):
        server.faults.queue.extend([fault] * 2)
        with pytest.raises(FetchError) as error:
            get(client, tmp_path, Query(elements=("O",)), name="broken", attempts=2)
        told += [str(error.value), repr(error.value), repr(error.getrepr(style="long"))]
    told += [repr(client), caplog.text, *capfd.readouterr()]
    assert not any(mps.KEY in text for text in told)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) > 6
    for path in files:
        content = path.read_bytes()
        assert mps.KEY.encode() not in content
        if path.suffix == ".gz":
            assert mps.KEY.encode() not in gzip.decompress(content)
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as packed:
                assert not any(mps.KEY in str(packed[name].tolist()) for name in packed.files)


# Questions that make no sense here

BAD = {
    "field": ({"fields": ["gap"]}, "unknown field 'gap'; allowed: formation_energy_per_atom"),
    "mixed": ({"fields": ["average_voltage", "band_gap"]}, "band_gap and average_voltage are of different records"),
    "range": (
        {"fields": ["average_voltage"], "query": Query(ranges={"K_VRH": (1, 2)})}, "K_VRH and average_voltage are of"
    ),
    "voltage of a material": (
        {"fields": ["band_gap"], "query": Query(ranges={"average_voltage": (1, 2)})}, "are of different records"
    ),
    "stable electrode": ({"fields": ["average_voltage"], "query": Query(stable=True)}, "stable: not known"),
    "id": ({"query": Query(ids=("not an id",))}, "'not an id' is no id of the Materials Project, as mp-149"),
    "flag": ({"query": Query(ranges={"is_metal": (0.2, 1)})}, "range of is_metal: it is 0 or 1"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_questions(client, tmp_path, name):
    query, words = BAD[name]
    with pytest.raises(ValueError, match=words):
        get(client, tmp_path, **query)


def test_an_unknown_thermo_type():
    with pytest.raises(ValueError, match="unknown thermo type 'PBE'; allowed: GGA_GGA"):
        MaterialsProject(thermo_type="PBE")


def test_a_missing_package_is_named(server, monkeypatch, tmp_path):
    monkeypatch.setitem(__import__("sys").modules, "mp_api.client", None)
    with pytest.raises(ImportError, match="of the extra 'mp': pip install"):
        get(MaterialsProject(mps.KEY, server.url), tmp_path)


#: densities from handbooks (g/cm3), space groups, and shortest bonds (Å)
KNOWN = {
    "NiO": (6.81, 225, 2.09), "LiNiO2": (4.78, 166, 1.97), "LiMn2O4": (4.28, 227, 1.96), "Li2O": (2.01, 225, 2.00),
    "CaF2": (3.18, 225, 2.37), "SrTiO3": (5.11, 221, 1.95), "ZnS": (4.09, 216, 2.34), "Fe": (7.87, 229, 2.48),
    "Cu": (8.94, 225, 2.56),
}  # fmt: skip


@pytest.mark.parametrize("formula", KNOWN)
def test_the_servers_crystals_are_the_published_ones(formula):
    density, space_group, bond = KNOWN[formula]
    crystal = next(s for s in bases() if s.composition.reduced_formula == formula)
    assert crystal.density == pytest.approx(density, rel=0.01)
    assert crystal.get_space_group_info()[1] == space_group
    assert min(crystal.get_neighbor_list(4.0)[3]) == pytest.approx(bond, abs=0.02)
