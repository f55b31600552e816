"""Questions to a provenance graph of 10^5 predictions: one set of 100,000, a thousand sets of 100, and a long loop.

A temporary AiiDA profile (SQLite) is made and filled with nodes as workflows leave them; no model runs.
"""

import os
import sys
import tempfile
import time
from pathlib import Path

from _report import Table, finish, parser

#: never the user's own ~/.aiida, which importing AiiDA would make
AIIDA = tempfile.TemporaryDirectory(prefix="cgcnn-ase-aiida-")
os.environ["AIIDA_PATH"] = AIIDA.name
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "aiida_plugin"))

from stored_graph import pool_of, predict, predictions_of_model, store_graph  # noqa: E402


def timed(call, *args, repeats=3):
    """Seconds of the fastest call, of wall time and of processor time, and what it gave."""
    wall, used, result = float("inf"), float("inf"), None
    for _ in range(repeats):
        start, begun = time.perf_counter(), time.process_time()
        result = call(*args)
        wall, used = min(wall, time.perf_counter() - start), min(used, time.process_time() - begun)
    return wall, used, result


def main():
    options = parser(__doc__.splitlines()[0], data=False)
    options.add_argument("--n", type=int, default=100_000, help="predictions in all")
    options.add_argument("--sets", type=int, default=1_000, help="sets that these are in, of the graph of many sets")
    options.add_argument("--rounds", type=int, default=12, help="rounds of the loop behind the last model")
    args = options.parse_args()
    from aiida.manage.configuration import profile_context
    from aiida.storage.sqlite_temp import SqliteTempBackend

    with tempfile.TemporaryDirectory() as folder:
        profile = SqliteTempBackend.create_profile("provenance", filepath=folder)
        with profile_context(profile, allow_switch=True):
            tables = measure(Path(folder), args)
    finish(tables, args.output, vars(args))


def measure(folder, args):
    from aiida import orm

    from aiida_plugin.data.model import model_path
    from aiida_plugin.data.structure_archive.arrays import hashes_of_arrays
    from aiida_plugin.data.structures import StructureSetData
    from aiida_plugin.provenance.errors import errors
    from aiida_plugin.provenance.origin import origin, used_by
    from aiida_plugin.provenance.same_structure import predictions_of

    start = time.perf_counter()
    graph = store_graph(model_path("formation-energy-per-atom"), folder, n_pool=args.n, n_rounds=args.rounds, n_runs=10)
    filled = time.perf_counter() - start
    last, atoms = graph.predictions[-1], graph.pool.atoms(args.n // 2)
    result = Table("Questions to the graph", ("question", "graph", "seconds", "processor, s", "found"))
    one = f"1 set of {args.n:,}, {args.rounds} rounds of 10 DFT runs"
    *seconds, of = timed(origin, last, f"v{args.n // 2}")
    result.rows.append(("origin of one prediction", one, *seconds, f"{len(of.dft_runs)} DFT runs"))
    *seconds, table = timed(predictions_of, atoms)
    result.rows.append(("predictions of a structure", one, *seconds, f"{len(table)} predictions"))
    *seconds, table = timed(predictions_of, f"v{args.n // 2}")
    result.rows.append(("predictions of an id", one, *seconds, f"{len(table)} predictions"))
    *seconds, use = timed(used_by, graph.models[0])
    result.rows.append(("use of the first model", one, *seconds, f"{len(use.processes)} processes"))
    *seconds, table = timed(errors, last)
    result.rows.append(("errors of predictions", one, *seconds, f"{len(table)} labels"))
    _, seconds, _ = timed(hashes_of_arrays, graph.pool.arrays(), repeats=1)
    result.notes.append(
        f"the hashes of {args.n:,} structures of two atoms take {seconds:.2f} s to compute, and are stored"
    )

    each = args.n // args.sets
    model = graph.models[0]
    start = time.perf_counter()
    for k in range(args.sets):
        some = StructureSetData.from_ase(pool_of(each, seed=k + 1), [f"s{k}-{j}" for j in range(each)]).store()
        predict(graph, model, some, predictions_of_model(some, model, some.ids, range(each)))
    filled += time.perf_counter() - start
    many = f"{args.sets:,} sets of {each:,} besides"
    atoms = some.atoms(0)
    *seconds, table = timed(predictions_of, atoms)
    result.rows.append(("predictions of a structure", many, *seconds, f"{len(table)} predictions"))
    *seconds, table = timed(predictions_of, some.ids[0])
    result.rows.append(("predictions of an id", many, *seconds, f"{len(table)} predictions"))
    *seconds, use = timed(used_by, model)
    result.rows.append(("use of the first model", many, *seconds, f"{len(use.predictions)} predictions nodes"))
    *seconds, of = timed(origin, last)
    result.rows.append(("origin of one prediction", many, *seconds, f"{len(of.dft_runs)} DFT runs"))
    *seconds, table = timed(errors, model)
    result.rows.append(("errors of a model", many, *seconds, f"{len(table)} labels"))
    result.notes.append(f"{orm.QueryBuilder().append(orm.Node).count():,} nodes, filled in {filled:.0f} s")
    return [result]


if __name__ == "__main__":
    main()
