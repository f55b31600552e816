"""A small server on this machine that speaks the Materials Project's interface, to try and test its clients.

The documents are built with the published models of the interface (emmet-core) from crystals with published lattice
parameters. THEIR VALUES ARE MADE UP by simple rules (`Crystal`), so that nothing of the real database is in here.
It can be told to fail, as real servers do: see `Faults`.

    python examples/servers/materials_project_server.py --port 8000 --records 500 --fault-rate 0.05
    MP_API_KEY=... cgcnn-ase fetch --endpoint http://127.0.0.1:8000 --elements Li,O --output data

Needs `pip install "cgcnn-ase[mp]"`.
"""

import argparse
import copy
import json
import random
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from math import asin, degrees, sqrt
from urllib.parse import parse_qsl, urlsplit

from pymatgen.core import Composition, Lattice, Structure

#: the key that is accepted; the real ones have as many characters
KEY = "0123456789abcdefABCDEF0123456789"
DB_VERSION = "2026.02.30"

ROUTES = ("summary", "thermo", "elasticity", "magnetism", "insertion_electrodes")
THERMO_TYPES = ("GGA_GGA+U", "R2SCAN", "GGA_GGA+U_R2SCAN")


def fcc(a: float) -> Lattice:
    """The primitive cell of a face-centred cube of edge `a`, Å."""
    return Lattice([[0, a / 2, a / 2], [a / 2, 0, a / 2], [a / 2, a / 2, 0]])


def rhombohedral(a: float, c: float) -> Lattice:
    """The primitive cell of a rhombohedral crystal, from the edges of its hexagonal cell, Å."""
    return Lattice.rhombohedral(sqrt(a**2 / 3 + c**2 / 9), 2 * degrees(asin(1.5 / sqrt(3 + (c / a) ** 2))))


def bcc(a: float) -> Lattice:
    return Lattice([[-a / 2, a / 2, a / 2], [a / 2, -a / 2, a / 2], [a / 2, a / 2, -a / 2]])


#: fractional positions in the primitive cells; z of layered and u of spinel oxides is that of LiNiO2 and LiMn2O4
LAYERED = [[0.5] * 3, [0] * 3, [0.2419] * 3, [-0.2419] * 3]
U, V = 0.2625, 0.5 - 3 * 0.2625
SPINEL = [
    *([0.125] * 3, [0.875] * 3),
    *([0.5, 0.5, 0.5], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]),
    *([sign * x for x in o] for o in ([U, U, U], [U, U, V], [U, V, U], [V, U, U]) for sign in (1, -1)),
]
FLUORITE = [[0] * 3, [0.25] * 3, [0.75] * 3]
PEROVSKITE = [[0.5] * 3, [0] * 3, [0.5, 0, 0], [0, 0.5, 0], [0, 0, 0.5]]

#: cell, element of each position, positions: lattice parameters at room temperature as published
CRYSTALS: list[tuple[Lattice, list[str], list]] = [
    *(
        (fcc(a), [cation, anion], [[0] * 3, [0.5] * 3])
        for cation, anion, a in (
            *(("Ni", "O", 4.177), ("Co", "O", 4.261), ("Mn", "O", 4.446), ("Mg", "O", 4.212), ("Ca", "O", 4.811)),
            *(("Fe", "O", 4.326), ("Li", "F", 4.026), ("Na", "Cl", 5.640), ("Ti", "N", 4.242), ("V", "O", 4.073)),
            *(("Sr", "O", 5.160), ("Ba", "O", 5.539), ("Cd", "O", 4.695), ("Na", "F", 4.620), ("K", "Cl", 6.293)),
        )
    ),
    *(
        (rhombohedral(a, c), ["Li", metal, "O", "O"], LAYERED)
        for metal, a, c in (
            *(("Ni", 2.878, 14.19), ("Co", 2.815, 14.05), ("Al", 2.800, 14.22), ("Cr", 2.900, 14.43)),
            *(("V", 2.838, 14.82), ("Fe", 2.955, 14.57), ("Mn", 2.860, 14.34)),
        )
    ),
    *(
        (fcc(a), [one, two, two], FLUORITE)
        for one, two, a in (("O", "Li", 4.619), ("O", "Na", 5.550), ("Ca", "F", 5.463), ("Ce", "O", 5.411))
    ),
    *(
        (Lattice.cubic(a), [a_site, b_site, "O", "O", "O"], PEROVSKITE)
        for a_site, b_site, a in (("Sr", "Ti", 3.905), ("Ba", "Ti", 4.006), ("La", "Al", 3.790), ("K", "Ta", 3.989))
    ),
    *((fcc(a), ["Li"] * 2 + [metal] * 4 + ["O"] * 8, SPINEL) for metal, a in (("Mn", 8.247), ("Ti", 8.370))),
    *(
        (fcc(a), [cation, anion], [[0] * 3, [0.25] * 3])
        for cation, anion, a in (("Zn", "S", 5.409), ("Ga", "As", 5.653), ("Cu", "Cl", 5.416))
    ),
    *((fcc(a), [symbol], [[0] * 3]) for symbol, a in (("Ni", 3.524), ("Cu", 3.615), ("Al", 4.050))),
    *((bcc(a), [symbol], [[0] * 3]) for symbol, a in (("Li", 3.510), ("Fe", 2.866))),
]


@dataclass(frozen=True)
class Crystal:
    """One material: a structure, and values that are made up from its elements and its strain."""

    number: int  #: in its id
    structure: Structure
    strain: float

    @property
    def composition(self) -> Composition:
        return self.structure.composition

    @property
    def formation_energy(self) -> float:
        """eV/atom: attraction grows with the difference of electronegativities, strain costs energy."""
        x = [(element.X, self.composition.get_atomic_fraction(element)) for element in self.composition.elements]
        return -1.1 * sum(p * q * (a - b) ** 2 for a, p in x for b, q in x) / 2 + 25 * self.strain**2

    @property
    def energy(self) -> float:
        """eV/atom, PBE with corrections."""
        return -3.0 + self.formation_energy

    @property
    def gap(self) -> float:
        """eV."""
        return round(max(0.0, -2.5 * self.formation_energy - 1.0), 4)

    @property
    def bulk_modulus(self) -> float:
        """GPa."""
        return round(900 / self.structure.volume * len(self.structure), 3)

    @property
    def moment(self) -> float:
        """mu_B of the cell."""
        return float(
            sum({"Fe": 4.0, "Mn": 5.0, "Co": 3.0, "Ni": 2.0}.get(site.specie.symbol, 0) for site in self.structure)
        )

    @property
    def has_elasticity(self) -> bool:
        return self.number % 3 == 0

    @property
    def has_r2scan(self) -> bool:
        return self.number % 2 == 0


@cache
def bases() -> tuple[Structure, ...]:
    """The crystals, primitive and at their published size."""
    return tuple(Structure(cell, elements, positions) for cell, elements, positions in CRYSTALS)


class Database:
    """Documents of so many materials, each made when it is asked for."""

    def __init__(self, n: int = 120) -> None:
        self.n = n
        numbers = [11 * k + 7 for k in range(n)]
        self.position = {f"mp-{number}": k for k, number in enumerate(numbers)}
        self.ids = sorted(self.position)  # as a database sorts: by letters, so mp-18 comes before mp-7

    def crystal(self, name: str) -> Crystal:
        """Every so many materials the crystals come again, strained by another amount."""
        k = self.position[name]
        turn, which = divmod(k, len(bases()))
        strain = 0.004 * ((turn * 7 + which) % 11 - 5)
        structure = bases()[which].copy()
        structure.scale_lattice(structure.volume * (1 + strain) ** 3)
        return Crystal(int(name.removeprefix("mp-")), structure, strain)

    def documents(self, route: str, name: str) -> list[dict]:
        """What a route has of a material; the thermo route has one document for each thermo type."""
        k = self.position[name]
        period = len(bases()) * 11  # then structures come again exactly
        number = int(name.removeprefix("mp-"))
        made = _document_sets(route, k % period, number % 6)
        found = []
        for document in made:
            document = copy.copy(document)
            if route == "insertion_electrodes":
                document |= {"material_ids": [name], "id_discharge": name}
            else:
                document["material_id"] = name
            found.append(document)
        return found


@cache
def _document_sets(route: str, k: int, remainder: int) -> tuple[dict, ...]:
    """Documents of a crystal, without their ids."""
    database = Database(k + 1)
    name = next(name for name, position in database.position.items() if position == k)
    crystal = database.crystal(name)
    crystal = Crystal(remainder, crystal.structure, crystal.strain)
    made = {
        "summary": summary,
        "thermo": thermo,
        "elasticity": elasticity,
        "magnetism": magnetism,
        "insertion_electrodes": insertion_electrodes,
    }[route](crystal)
    return tuple(json.loads(document.model_dump_json()) for document in made)


def r2scan_geometry(structure: Structure) -> Structure:
    """The same crystal, one percent shorter."""
    smaller = structure.copy()
    smaller.scale_lattice(structure.volume * 0.99**3)
    return smaller


def summary(crystal: Crystal) -> list:
    from emmet.core.summary import SummaryDoc

    best = r2scan_geometry(crystal.structure) if crystal.has_r2scan else crystal.structure
    units = crystal.composition.get_reduced_composition_and_factor()[1]
    more = (
        {
            "bulk_modulus": dict.fromkeys(("voigt", "reuss", "vrh"), crystal.bulk_modulus),
            "shear_modulus": dict.fromkeys(("voigt", "reuss", "vrh"), 0.6 * crystal.bulk_modulus),
            "homogeneous_poisson": 0.25,
        }
        if crystal.has_elasticity
        else {}
    )
    return [
        SummaryDoc.from_structure(
            meta_structure=best,
            deprecated=False,
            band_gap=crystal.gap,
            efermi=crystal.gap / 2,
            is_metal=crystal.gap == 0,
            energy_per_atom=crystal.energy - 5,  # of another functional: nobody should take it
            formation_energy_per_atom=crystal.formation_energy - 5,
            total_magnetization=crystal.moment,
            total_magnetization_normalized_formula_units=crystal.moment / units,
            has_props={"elasticity": crystal.has_elasticity, "magnetism": True, "thermo": True},
            **more,
        )
    ]


def thermo(crystal: Crystal) -> list:
    from emmet.core.thermo import ThermoDoc
    from pymatgen.entries.computed_entries import ComputedStructureEntry

    has_u = any(element.symbol in ("Ni", "Co", "Mn", "Fe", "V", "Cr") for element in crystal.composition.elements)
    documents = []
    for kind in THERMO_TYPES:
        if kind == "R2SCAN" and not crystal.has_r2scan:
            continue
        scan = kind != "GGA_GGA+U" and crystal.has_r2scan
        run = "r2SCAN" if scan else "GGA+U" if has_u and "O" in crystal.composition else "GGA"
        structure = r2scan_geometry(crystal.structure) if scan else crystal.structure
        shift = {"GGA_GGA+U": 0.0, "R2SCAN": -9.0, "GGA_GGA+U_R2SCAN": -0.02}[kind]
        energy = crystal.energy + shift
        hull = round(abs(25 * crystal.strain**2), 6)
        entry = ComputedStructureEntry(
            structure, energy * len(structure), parameters={"run_type": run}, entry_id=f"mp-1-{run}"
        )
        documents.append(
            ThermoDoc.from_structure(
                meta_structure=structure,
                deprecated=False,
                thermo_type=kind,
                uncorrected_energy_per_atom=energy + 0.1,
                energy_per_atom=energy,
                formation_energy_per_atom=crystal.formation_energy + shift / 10,
                energy_above_hull=hull,
                is_stable=hull == 0,
                energy_type=run,
                entry_types=[run],
                entries={run: entry},
            )
        )
    return documents


def elasticity(crystal: Crystal) -> list:
    from emmet.core.elasticity import ElasticityDoc

    if not crystal.has_elasticity:
        return []
    return [
        ElasticityDoc.from_structure(
            meta_structure=crystal.structure,
            deprecated=False,
            bulk_modulus=dict.fromkeys(("voigt", "reuss", "vrh"), crystal.bulk_modulus),
            shear_modulus=dict.fromkeys(("voigt", "reuss", "vrh"), 0.6 * crystal.bulk_modulus),
            homogeneous_poisson=0.25,
            state="successful",
        )
    ]


def magnetism(crystal: Crystal) -> list:
    from emmet.core.magnetism import MagnetismDoc

    units = crystal.composition.get_reduced_composition_and_factor()[1]
    return [
        MagnetismDoc(
            **PLAIN,
            property_name="magnetism",
            ordering="FM" if crystal.moment else "NM",
            is_magnetic=crystal.moment > 0,
            total_magnetization=crystal.moment,
            total_magnetization_normalized_formula_units=crystal.moment / units,
        )
    ]


#: what a document has that is not asked for here
PLAIN: dict = {"deprecated": False, "last_updated": "2026-02-01T00:00:00", "structure": None, "origins": []}


def insertion_electrodes(crystal: Crystal) -> list:
    from emmet.core.electrode import InsertionElectrodeDoc

    if "Li" not in crystal.composition or "O" not in crystal.composition or len(crystal.composition) < 3:
        return []
    frame = crystal.composition - Composition({"Li": crystal.composition["Li"]})
    capacity = 26801.4 * crystal.composition["Li"] / crystal.composition.weight  # mAh/g: Faraday's constant / 3.6
    return [
        InsertionElectrodeDoc(
            battery_type="insertion",
            thermo_type="GGA_GGA+U",
            working_ion="Li",
            last_updated="2026-02-01T00:00:00",
            framework=frame,
            framework_formula=frame.reduced_formula,
            elements=sorted(element.symbol for element in frame.elements),
            chemsys=frame.chemical_system,
            average_voltage=round(4.0 + 0.1 * crystal.formation_energy, 4),
            capacity_grav=round(capacity, 3),
        )
    ]


@dataclass
class Faults:
    """How the server fails.

    `rate` is the part of the requests that fail at random (seeded), each in one of the ways of `kinds`; `queue` are the
    next answers in order: None for a good one, or a way to fail: "500", "429" (says to come again after
    `retry_after` s), "cut" (half an answer), "slow" (waits `delay` s), "refused" (closes without an answer).
    """

    rate: float = 0.0
    kinds: tuple[str, ...] = ("500", "429", "cut")
    seed: int = 0
    retry_after: float = 0.0
    delay: float = 2.0
    queue: deque = field(default_factory=deque)

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)
        self._lock = threading.Lock()
        self.given: Counter = Counter()

    def next(self) -> str | None:
        with self._lock:
            kind = None
            if self.queue:
                kind = self.queue.popleft()
            elif self._random.random() < self.rate:
                kind = self._random.choice(self.kinds)
            if kind:
                self.given[kind] += 1
            return kind


class MaterialsProjectServer(ThreadingHTTPServer):
    """The interface over a database, on a free port of this machine."""

    daemon_threads = True

    def __init__(self, n: int = 120, port: int = 0, faults: Faults | None = None, keep_log: bool = True) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.database = Database(n)
        self.faults = faults or Faults()
        self.key = KEY
        self.db_version = DB_VERSION
        #: changes a document before it is sent: (route, document) -> document
        self.change: Callable[[str, dict], dict] = lambda route, document: document
        #: (path, conditions) of the requests so far
        self.log: deque = deque(maxlen=None if keep_log else 1)
        self.n_requests = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def search(self, route: str, asked: dict[str, str]) -> tuple[list[dict], int]:
        """One page of documents with the fields asked for, and how many there are in all."""
        limit, skip = int(asked.get("_limit", 100)), int(asked.get("_skip", 0))
        if "_page" in asked:
            limit = int(asked.get("_per_page", 100))
            skip = (int(asked["_page"]) - 1) * limit
        conditions = {k: v for k, v in asked.items() if not k.startswith("_")}
        conditions.pop("deprecated", None)
        of_electrodes = route == "insertion_electrodes"
        named = conditions.pop("battery_ids" if of_electrodes else "material_ids", None)
        names = self.database.ids
        if named is not None:
            names = [n for n in (x.removesuffix("_Li") for x in named.split(",")) if n in self.database.position]
        if route in ("summary", "magnetism") and not conditions:  # one for each: only the page is made
            page = [self.database.documents(route, n)[0] for n in names[skip : skip + limit]]
            total = len(names)
        else:
            every = (d for n in names for d in self.database.documents(route, n))
            fits = [d for d in every if _fits(d, conditions)]
            page, total = fits[skip : skip + limit], len(fits)
        fields = asked.get("_fields", "material_id").split(",")
        changed = [self.change(route, dict(document)) for document in page]
        if "_all_fields" in asked:
            return changed, total
        return [{k: v for k, v in document.items() if k in fields} for document in changed], total


#: conditions of the summary that stand elsewhere in its documents
_ELSEWHERE = {"k_vrh": ("bulk_modulus", "vrh"), "g_vrh": ("shear_modulus", "vrh")}


def _fits(document: dict, conditions: dict[str, str]) -> bool:
    return all(_one_fits(document, name, value) for name, value in conditions.items())


def _one_fits(document: dict, name: str, value: str) -> bool:
    several = value.split(",")
    if name == "formula":
        return document["formula_pretty"] in [Composition(each).reduced_formula for each in several]
    if name == "chemsys":
        return document["chemsys"] in ["-".join(sorted(each.split("-"))) for each in several]
    if name == "elements":
        return set(several) <= {*document["elements"], str(document.get("working_ion", ""))}
    if name == "exclude_elements":
        return not set(several) & set(document["elements"])
    if name == "has_props":
        return all(document["has_props"].get(each) for each in several)
    if name == "thermo_types":
        return document["thermo_type"].upper() in [each.upper() for each in several]
    if name in ("is_stable", "is_metal"):
        return document[name] == (value.lower() == "true")
    if name.endswith(("_min", "_max")):
        found: object = document
        for key in _ELSEWHERE.get(name[:-4], (name[:-4],)):
            found = found.get(key) if isinstance(found, dict) else None
        if not isinstance(found, (int, float)):
            return False
        return found >= float(value) if name.endswith("_min") else found <= float(value)
    return True  # as the real one: what is not known is ignored


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: MaterialsProjectServer

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        asked = dict(parse_qsl(parts.query))
        path = parts.path.strip("/")
        self.server.n_requests += 1
        self.server.log.append((path, asked))
        fault = None if path == "heartbeat" else self.server.faults.next()
        if fault in ("500", "429"):
            again = {"Retry-After": f"{self.server.faults.retry_after:g}"} if fault == "429" else {}
            self._send(int(fault), {"detail": "try again"}, again)
        elif fault == "refused":
            self.close_connection = True
        elif path == "heartbeat":
            about = {"db_version": self.server.db_version, "version": "0.87.3", "access_controlled_batch_ids": []}
            self._send(200, {"status": "OK", **about})
        elif path.removeprefix("materials/") not in ROUTES:
            self._send(404, {"detail": "Not Found"})
        elif self.headers.get("x-api-key") != self.server.key:
            self._send(
                401 if self.headers.get("x-api-key") is None else 403, {"detail": "Invalid authentication credentials"}
            )
        elif int(asked.get("_limit", 0)) > 1000:
            self._send(400, {"detail": "_limit must be at most 1000"})
        else:
            if fault == "slow":
                time.sleep(self.server.faults.delay)
            found, total = self.server.search(path.removeprefix("materials/"), asked)
            self._send(200, {"data": found, "meta": {"total_doc": total, "max_limit": 1000}}, cut=fault == "cut")

    def _send(self, status: int, content: dict, headers: dict | None = None, *, cut: bool = False) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", **(headers or {})}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: len(body) // 2] if cut else body)
        if cut:
            self.close_connection = True

    def log_message(self, *args: object) -> None:
        """Say nothing."""


@contextmanager
def serve(n: int = 120, *, faults: Faults | None = None, keep_log: bool = True) -> Iterator[MaterialsProjectServer]:
    """A running server: `with serve() as server: ... server.url`."""
    with MaterialsProjectServer(n, faults=faults, keep_log=keep_log) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        try:
            yield server
        finally:
            server.shutdown()


def main() -> None:
    parser = argparse.ArgumentParser(description="A small server with the Materials Project's interface; key: " + KEY)
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--records", type=int, default=500)
    parser.add_argument("--fault-rate", type=float, default=0.0, help="Part of the requests that fail at random.")
    given = parser.parse_args()
    faults = Faults(rate=given.fault_rate)
    with MaterialsProjectServer(given.records, given.port, faults, keep_log=False) as server:
        print(f"{server.url} serves {given.records} made-up records; the key is {KEY}", flush=True)
        server.serve_forever()


if __name__ == "__main__":
    main()
