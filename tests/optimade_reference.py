"""The reference OPTIMADE server on loopback, with crystals of published lattice parameters and faults on request."""

import asyncio
import json
import socket
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from urllib.parse import parse_qs

from ase.build import bulk
from pymatgen.core import Lattice, Structure
from pymatgen.io.ase import AseAtomsAdaptor

#: lattice parameters at room temperature in Å, of the usual tables (Wyckoff, Crystal Structures; CRC Handbook)
FCC = {"Cu": 3.615, "Al": 4.050, "Ni": 3.524, "Ag": 4.086, "Au": 4.078, "Pt": 3.924, "Pd": 3.891}
BCC = {"Fe": 2.866, "W": 3.165, "Na": 4.291, "V": 3.03}
ROCK_SALT = {"MgO": 4.212, "NiO": 4.177, "CaO": 4.811, "LiF": 4.026, "NaCl": 5.640, "LiH": 4.084, "MnO": 4.445}
ZINC_BLENDE = {"GaAs": 5.653, "ZnS": 5.409}
PEROVSKITE = {"SrTiO": 3.905, "BaTiO": 4.004}


def crystals():
    """Crystals by name, 1 to 12 atoms each."""
    result = {name: bulk(name, "fcc", a=a) for name, a in FCC.items()}
    result |= {name: bulk(name, "bcc", a=a) for name, a in BCC.items()}
    result |= {name: bulk(name, "rocksalt", a=a) for name, a in ROCK_SALT.items()}
    result |= {name: bulk(name, "zincblende", a=a) for name, a in ZINC_BLENDE.items()}
    result["MgO-cubic"] = bulk("MgO", "rocksalt", a=4.212, cubic=True)
    for name, a in PEROVSKITE.items():
        sites = [name[:2], name[2:4], "O"]
        structure = Structure.from_spacegroup(
            "Pm-3m", Lattice.cubic(a), sites, [[0, 0, 0], [0.5, 0.5, 0.5], [0.5, 0.5, 0]]
        )
        result[f"{name}3"] = AseAtomsAdaptor.get_atoms(structure, msonable=False)
    layered = Structure.from_spacegroup(
        "R-3m", Lattice.hexagonal(2.878, 14.19), ["Li", "Ni", "O"], [[0, 0, 0.5], [0, 0, 0], [0, 0, 0.258]]
    )
    result["LiNiO2"] = AseAtomsAdaptor.get_atoms(layered, msonable=False)
    return result


def document(id, atoms, **more):
    """A structure as the reference server keeps it, from the server's own adapter."""
    from optimade.adapters.structures.ase import from_ase_atoms

    result = json.loads(from_ase_atoms(atoms).model_dump_json(exclude_unset=True))
    return result | {"id": id, "type": "structures", "last_modified": "2024-01-01T00:00:00Z"} | more


class Faults:
    """What stands in front of the server: a log of the requests for structures, and answers that go wrong."""

    def __init__(self, app):
        self.app = app
        self.asked = []
        self.plan = deque()  # of the next requests for crystals: None (all well), a status, "cut", "slow", or bytes

    async def __call__(self, scope, receive, send):
        query = scope.get("query_string", b"").decode()
        if scope["type"] != "http" or "lattice_vectors" not in query:
            await self.app(scope, receive, send)
            return
        self.asked.append(parse_qs(query))
        fault = self.plan.popleft() if self.plan else None
        if fault is None:
            await self.app(scope, receive, send)
        elif fault == "slow":
            await asyncio.sleep(0.6)
            await self.app(scope, receive, send)
        elif fault == "cut":
            await self.app(scope, receive, _cut(send))
        else:
            status, body = (200, fault) if isinstance(fault, bytes) else (fault, b"out of order")
            headers = [(b"retry-after", b"7")] if status == 429 else []
            await send({"type": "http.response.start", "status": status, "headers": headers})
            await send({"type": "http.response.body", "body": body})


def _cut(send):
    async def half(message):
        if message["type"] == "http.response.body" and message.get("body"):
            body = message["body"]
            await send({"type": "http.response.body", "body": body[: len(body) // 2], "more_body": False})
            raise ConnectionResetError("the test cuts this answer")
        await send(message)

    return half


class Server:
    """A running server: its base URL and what stands in front of it."""

    def __init__(self, url, faults):
        self.url = url
        self.faults = faults


_number = count()


@contextmanager
def serve(documents, folder: Path, *, prefix="tst", fields=(), page_limit_max=50, **config) -> Iterator[Server]:
    """Serve documents; `fields` are those that get the provider's prefix, names or descriptions with units."""
    import uvicorn
    from optimade.server.config import ServerConfig
    from optimade.server.create_app import create_app

    settings = ServerConfig(
        insert_test_data=False,
        log_dir=folder,
        log_level="error",
        mongo_database=f"test{next(_number)}",
        page_limit_max=page_limit_max,
        provider={
            "prefix": prefix,
            "name": "Test crystals",
            "description": "tables",
            "homepage": "https://example.org",
        },
        provider_fields={"structures": list(fields)},
        **config,
    )
    app = create_app(settings)
    app.state.entry_collections["structures"].insert(documents)
    faults = Faults(app)
    server = uvicorn.Server(uvicorn.Config(faults, log_level="critical"))
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        while not server.started:
            assert thread.is_alive(), "the server did not start"
            time.sleep(0.02)
        try:
            yield Server(f"http://127.0.0.1:{listening.getsockname()[1]}", faults)
        finally:
            server.should_exit = True
            thread.join()
