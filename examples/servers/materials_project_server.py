"""A small server on this machine that speaks the Materials Project's interface, to try and test its clients.

The documents are built with the published models of the interface (emmet-core) from crystals with published lattice
parameters. THEIR VALUES ARE MADE UP by the simple rules of `materials_project_crystals`: nothing of the real database
is in here. It can be told to fail, as real servers do: see `Faults`.

    python examples/servers/materials_project_server.py --port 8000 --records 500 --fault-rate 0.05
    MP_API_KEY=... cgcnn-ase fetch --endpoint http://127.0.0.1:8000 --elements Li,O --output data

Needs `pip install "cgcnn-ase[mp]"`.
"""

import argparse
import json
import random
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import islice
from urllib.parse import parse_qsl, urlsplit

from materials_project_crystals import PERIOD
from materials_project_documents import ROUTES, THERMO_TYPES, Database
from pymatgen.core import Composition

#: the key that is accepted; the real ones have as many characters
KEY = "0123456789abcdefABCDEF0123456789"
DB_VERSION = "2026.02.30"


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
        self.refusal = 401  #: status of the answer to another key
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
        one_each = {"summary": {}, "magnetism": {}, "thermo": {"thermo_types": THERMO_TYPES[0]}}
        if conditions == one_each.get(route):  # then only the page is made
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
        result: object = document
        for key in _ELSEWHERE.get(name[:-4], (name[:-4],)):
            result = result.get(key) if isinstance(result, dict) else None
        if not isinstance(result, (int, float)):
            return False
        return result >= float(value) if name.endswith("_min") else result <= float(value)
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
            self._send(self.server.refusal, {"detail": "Invalid authentication credentials"})
        elif int(asked.get("_limit", 0)) > 1000:
            self._send(400, {"detail": "_limit must be at most 1000"})
        else:
            if fault == "slow":
                time.sleep(self.server.faults.delay)
            result, total = self.server.search(path.removeprefix("materials/"), asked)
            self._send(200, {"data": result, "meta": {"total_doc": total, "max_limit": 1000}}, cut=fault == "cut")

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

    def handle(self) -> None:
        """A client that went away is no error of the server."""
        with suppress(ConnectionError):
            super().handle()

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
    options = parser.parse_args()
    faults = Faults(rate=options.fault_rate)
    with MaterialsProjectServer(options.records, options.port, faults, keep_log=False) as server:
        for name in islice(server.database.position, 3 * PERIOD):  # make each once, so that no answer waits for it
            for route in ROUTES:
                server.database.documents(route, name)
        print(f"{server.url} serves {options.records} made-up records; the key is {KEY}", flush=True)
        server.serve_forever()


if __name__ == "__main__":
    main()
