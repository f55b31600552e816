"""Many records from an OPTIMADE server that fails now and then: time, memory, and whether one is lost or doubled.

The server is a child process on this machine. It sends made-up crystals, 500 a page; of its answers a part
fails: half of these are a 503, the others are cut off in the middle.
"""

import argparse
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from _report import Table, finish, parser

#: records a page
_PAGE = 500


def options() -> argparse.Namespace:
    made = parser(__doc__ or "", data=False)
    made.add_argument("--n", type=int, nargs="+", default=[10_000, 100_000], help="records")
    made.add_argument("--failing", type=float, default=0.05, help="part of the answers that fail")
    made.add_argument("--serve", type=int, help=argparse.SUPPRESS)
    made.add_argument("--fetch", help=argparse.SUPPRESS)
    return made.parse_args()


def main() -> None:
    chosen = options()
    if chosen.serve is not None:
        serve(chosen.serve, chosen.failing)
    elif chosen.fetch is not None:
        print(json.dumps(fetch_once(chosen.fetch)))
    else:
        columns = ["records", "seconds", "failed answers", "lost", "doubled", "peak memory (MB)"]
        table = Table("An OPTIMADE server through fetch()", columns)
        for n in chosen.n:
            table.rows.append(one(n, chosen.failing))
        finish([table], chosen.output, vars(chosen))


def one(n: int, failing: float) -> list[float]:
    """A row: server and fetch each in a process of their own."""
    me = [sys.executable, __file__, "--failing", str(failing)]
    server = subprocess.Popen([*me, "--serve", str(n)], stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    try:
        url = server.stdout.readline().strip()
        done = subprocess.run([*me, "--fetch", url], stdout=subprocess.PIPE, text=True, check=True)
    finally:
        server.terminate()
        server.wait()
    result = json.loads(done.stdout)
    lost, doubled = n - result["distinct"], result["records"] - result["distinct"]
    return [n, result["seconds"], result["failed"], lost, doubled, result["memory"]]


def fetch_once(url: str) -> dict[str, float]:
    """What is measured."""
    import numpy as np

    from cgcnn_ase.sources.client import Query
    from cgcnn_ase.sources.fetch import fetch
    from cgcnn_ase.sources.optimade import Optimade

    failed: list[str] = []
    client = Optimade(url, properties={"band_gap": ("_made_gap", "eV")}, page_limit=_PAGE)
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "out"
        start = time.perf_counter()
        fetch(client, Query(), output, fields=["band_gap"], cache=Path(folder) / "cache", say=failed.append)
        seconds = time.perf_counter() - start
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        with np.load(output / "structures.npz") as packed:
            ids = packed["ids"]
    distinct = len(np.unique(ids))
    return {"records": len(ids), "distinct": distinct, "seconds": seconds, "failed": len(failed), "memory": memory}


def serve(n: int, failing: float) -> None:
    """Answer until the process is ended; the address goes to stdout."""
    rng = random.Random(0)

    class Answers(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            """Nothing on stderr."""

        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            parameters = parse_qs(parts.query)
            first, limit = int(parameters.get("page_offset", ["0"])[0]), int(parameters.get("page_limit", ["1"])[0])
            body = {"data": {}} if "info" in parts.path else answer(n, first, limit)
            text, luck = json.dumps(body).encode(), rng.random()
            broken = "lattice_vectors" in parameters.get("response_fields", [""])[0] or first > 0
            self.send_response(503 if broken and luck < failing / 2 else 200)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            cut = broken and failing / 2 <= luck < failing
            self.wfile.write(text[: len(text) // 2] if cut else text)
            self.close_connection = cut

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    print(f"http://127.0.0.1:{server.server_address[1]}", flush=True)
    server.serve_forever()


def answer(n: int, first: int, limit: int) -> dict[str, object]:
    last = min(n, first + limit)
    following = f"/v1/structures?page_limit={limit}&page_offset={last}" if last < n else None
    return {
        "data": [crystal(k) for k in range(first, last)],
        "meta": {"data_returned": n, "data_available": n, "api_version": "1.2.0"},
        "links": {"next": following},
    }


def crystal(k: int) -> dict[str, object]:
    """Five to thirty atoms in the perovskite structure."""
    copies, a = 1 + k % 6, 3.9 + k % 100 / 1000
    sites = [[0, 0, 0], [0.5, 0.5, 0.5], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]]
    names = ["Sr", "Ti", "O", "O", "O"] * copies
    positions = [[a * (x + c), a * y, a * z] for c in range(copies) for x, y, z in sites]
    attributes = {
        "lattice_vectors": [[a * copies, 0, 0], [0, a, 0], [0, 0, a]],
        "cartesian_site_positions": positions,
        "species_at_sites": names,
        "dimension_types": [1, 1, 1],
        "_made_gap": k % 50 / 10,
    }
    return {"id": f"made-{k}", "type": "structures", "attributes": attributes}


if __name__ == "__main__":
    main()
