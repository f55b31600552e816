"""The AiiDA daemon killed with signal 9 at random moments of a workflow of 8 jobs: does it end as if nothing had been?

Each round submits ``cgcnn.predict_shards``, kills, recovers with ``aiida-cgcnn recover``, and kills again, until the
workflow ends. Then its graph is compared with that of an undisturbed run, and the log that the jobs' own code writes
says how often each was run.
"""

import sys
import time

import numpy as np
from _daemon import kill_and_finish, profile
from _report import Table, finish, parser
from _shards import N_SHARDS, make_code, runs, submit_shards

#: what a kill may hit, and what it is called
KINDS = {"": "all at once", "worker": "the worker", "broker": "the broker", "start-circus": "the supervisor"}


def main() -> None:
    options = parser(__doc__, data=False)
    options.add_argument("--kills", type=int, default=10, help="kills in all")
    options.add_argument("--within", type=float, default=6.0, help="a kill comes up to this many seconds after a start")
    options.add_argument("--kinds", nargs="+", default=["all"], choices=["all", *filter(None, KINDS)])
    options.add_argument("--model", default="formation-energy-per-atom", help="name or folder of the model")
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--patience", type=float, default=300.0, help="seconds after the last kill")
    settings = options.parse_args()
    kinds = tuple("" if kind == "all" else kind for kind in settings.kinds)
    table = Table(
        "Daemon killed -9",
        [
            "round",
            "kills",
            "ended",
            "processes",
            "as undisturbed",
            "runs of 8 jobs",
            "not closed",
            "outputs equal",
            "s",
        ],
    )
    rng = np.random.default_rng(settings.seed)
    with profile() as made:
        make_code(made)
        made.verdi("daemon", "start")
        start = time.monotonic()
        pk = submit_shards(made, settings.model)
        if not made.wait(pk, settings.patience):
            raise SystemExit("the undisturbed run did not end")
        whole = made.graph(pk)
        table.rows.append(_row("undisturbed", [], whole, whole, sum(runs(made).values()), time.monotonic() - start))
        left, number = settings.kills, 0
        while left > 0:
            number += 1
            (made.folder / "runs.log").unlink(missing_ok=True)
            done = kill_and_finish(
                made,
                lambda p: submit_shards(p, settings.model),
                left,
                rng,
                within=settings.within,
                kinds=kinds,
                patience=settings.patience,
            )
            left -= len(done.kills)
            print(f"round {number}: {len(done.kills)} kills, {done.graph.state}", file=sys.stderr)
            table.rows.append(_row(str(number), done.kills, done.graph, whole, sum(runs(made).values()), done.seconds))
    table.notes.append(
        f"{N_SHARDS} shards; a job that ran before copies its predictions; kills: {', '.join(settings.kinds)}"
    )
    finish([table], settings.output, vars(settings))


def _row(name, kills, graph, whole, n_runs, seconds):
    same = graph.finished == whole.finished and sorted(map(tuple, graph.links)) == sorted(map(tuple, whole.links))
    return [
        name,
        ", ".join(f"{KINDS['' if kind == 'all' else kind]} {moment:.0f} s" for moment, kind in kills) or "none",
        f"{graph.state}, {graph.exit_status}",
        sum(graph.finished.values()),
        "yes" if same else "no",
        "; ".join(graph.others) or "none",
        n_runs,
        len(graph.unsealed),
        "yes" if graph.outputs == whole.outputs else "no",
        seconds,
    ]


if __name__ == "__main__":
    main()
