"""``cgcnn.optimisation_step``: one round of an optimisation as a node, after the labels that its values come from."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, cast

from aiida.common.hashing import make_hash
from aiida.engine import calcfunction
from aiida.orm import CalcFunctionNode, Data, Dict, QueryBuilder

from aiida_plugin.data.structures import StructureSetData

if TYPE_CHECKING:
    from cgcnn_ase.optimization.records import CellRecord, Step

PROCESS_TYPE = "aiida.calculations:cgcnn.optimisation_step"  # the type of the nodes
_SAME = 1e-6  # two energies that are the same, eV
Row = dict[str, Any]


@calcfunction
def optimisation_step(settings: Dict, evaluations: Dict, previous: Dict | None = None, **labels: Data) -> Dict:
    """Join what was proposed in a round with the labels, and say what is best so far.

    Parameters
    ----------
    settings
        Of the run: ``config``, what the ``oracle`` says of itself, ``folder``, and ``objectives``: name and ``wanted``
        (min, max, or the number that is looked for).
    evaluations
        ``round``, and ``evaluations`` as the run wrote them: point, what was predicted (mean, std, gain of the
        acquisition), values, or the reason of a failure, and ``cells``: what the oracle said of each.
    previous
        The log of the round before.
    labels
        ``labelled_0``, ...: the sets of structures that the cells' energies are from; ``failures_0``, ...: those of
        label work chains, where structures failed.

    Returns
    -------
    Dict
        The log: ``round``, ``n_evaluated`` and ``n_failed`` of all rounds so far, ``evaluations`` of this one, and
        ``best``, of each objective: value, key, point and round.

    Raises
    ------
    ValueError
        If the energy of a cell is another than its label's.
    """
    content = evaluations.get_dict()
    before = previous.get_dict() if previous is not None else {}
    sets = {each.uuid: each for each in labels.values() if isinstance(each, StructureSetData)}
    rows = content["evaluations"]
    for row in rows:
        for key, cell in row["cells"].items():
            _check(key, cell, sets)
    return Dict(
        {
            "round": content["round"],
            "n_evaluated": before.get("n_evaluated", 0) + len(rows),
            "n_failed": before.get("n_failed", 0) + sum(row["status"] == "failed" for row in rows),
            "evaluations": rows,
            "best": _best(settings["objectives"], rows, content["round"], before.get("best", {})),
        }
    )


def _check(key: str, cell: "CellRecord", sets: Mapping[str, StructureSetData]) -> None:
    """See that a cell's energy is that of its label."""
    info = cell.get("info", {})
    labelled = sets.get(str(info.get("labelled")))
    if labelled is None:
        return
    energy = labelled.atoms(str(info["id"])).get_potential_energy()
    if abs(energy - cell["values"]["energy"]) > _SAME:
        raise ValueError(f"the energy of {key} is {cell['values']['energy']} eV, that of its label {energy} eV")


def _best(objectives: Sequence[Row], rows: Sequence[Row], number: int, before: Mapping[str, Row]) -> dict[str, Row]:
    """Return of each objective the best of these rows and those before."""
    best = dict(before)
    for objective in objectives:
        name, goal = objective["name"], objective["wanted"]
        for row in rows:
            if name not in row["values"]:
                continue
            value = row["values"][name]
            if name not in best or _loss(value, goal) < _loss(best[name]["value"], goal):
                best[name] = {"value": value, "key": row["key"], "point": row["point"], "round": number}
    return best


def _loss(value: float, goal: str | float) -> float:
    if isinstance(goal, str):
        return value if goal == "min" else -value
    return abs(value - goal)


class StepRecorder:
    """Makes a ``cgcnn.optimisation_step`` node of each round, which leads to the labels and to the round before.

    Parameters
    ----------
    run
        ``config``, ``oracle`` (what it says of itself), ``objectives`` (name and what is wanted) and ``folder`` of the
        run, by which the round before is found again when a run is resumed.
    """

    def __init__(self, run: Mapping[str, object]) -> None:
        self._run = dict(run)
        self._settings: Dict | None = None

    def __call__(self, step: "Step", failures: Sequence[Dict] = ()) -> Dict:
        """Return the log of a round, recorded now unless it is already; `failures` are of its label work chains."""
        rows = [asdict(record) for record in step.records]
        content: Row = {"round": step.round, "evaluations": rows}
        if (known := self._recorded(step.round, content)) is not None:
            return known
        if self._settings is None:
            self._settings = Dict(self._run).store()
        inputs: dict[str, Any] = {f"failures_{k}": node for k, node in enumerate(failures)}
        inputs |= {f"labelled_{k}": node for k, node in enumerate(_labelled(rows))}
        if (previous := self._recorded(step.round - 1)) is not None:
            inputs["previous"] = previous
        log: Dict = optimisation_step(self._settings, Dict(content), **inputs)
        return log

    def _recorded(self, number: int, content: Row | None = None) -> Dict | None:
        """Return the newest log of a round of this run, None if there is none; with `content` only if it is that."""
        query = QueryBuilder()
        query.append(Dict, filters={"attributes.folder": self._run["folder"]}, tag="settings")
        query.append(
            CalcFunctionNode, with_incoming="settings", filters={"process_type": PROCESS_TYPE}, tag="step", project="*"
        )
        query.append(Dict, with_incoming="step", filters={"attributes.round": number}, project="*", tag="log")
        row = query.order_by({"log": {"id": "desc"}}).first()
        if row is None:
            return None
        node, log = row[0], cast("Dict", row[1])
        # by their hashes, as numbers come back from the database in 14 digits
        same = content is None or make_hash(node.inputs.evaluations.get_dict()) == make_hash(content)
        return log if same else None


def record_steps(run: Mapping[str, object]) -> "Callable[[Step], Dict]":
    """Make the ``on_step`` of an optimisation that records each round of any oracle as a node.

    An oracle that runs through AiiDA does so itself, and links its labels. `run` holds ``config``, ``oracle``,
    ``folder`` and ``objectives``, each ``{"name": ..., "wanted": "min"}``.
    """
    if missing := sorted({"config", "oracle", "folder", "objectives"} - set(run)):
        raise ValueError(f"run lacks {', '.join(missing)}")
    return StepRecorder(run)


def _labelled(rows: Sequence[Row]) -> list[StructureSetData]:
    """Return the sets that the cells' energies are from, each once."""
    infos = [cell.get("info", {}) for row in rows for cell in row["cells"].values()]
    uuids = {info["labelled"] for info in infos if "labelled" in info}
    query = QueryBuilder().append(StructureSetData, filters={"uuid": {"in": list(uuids)}}, tag="set")
    sets: list[StructureSetData] = query.order_by({"set": {"id": "asc"}}).all(flat=True) if uuids else []
    if missing := sorted(uuids - {node.uuid for node in sets}):
        raise ValueError(f"the labels {missing[0]} of this run are not in this profile")
    return sets
