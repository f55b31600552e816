"""``cgcnn.optimisation_step``: one round of an optimisation as a node, after the labels that its values come from."""

from typing import Any

from aiida.engine import calcfunction
from aiida.orm import Data, Dict

from aiida_plugin.data.structures import StructureSetData

#: two energies that are the same, eV
_SAME = 1e-6


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


def _check(key: str, cell: dict[str, Any], sets: dict[str, StructureSetData]) -> None:
    """That a cell's energy is that of its label."""
    info = cell.get("info", {})
    if info.get("labelled") not in sets:
        return
    energy = sets[info["labelled"]].atoms(info["id"]).get_potential_energy()
    if abs(energy - cell["values"]["energy"]) > _SAME:
        raise ValueError(f"the energy of {key} is {cell['values']['energy']} eV, that of its label {energy} eV")


def _best(
    objectives: list[dict[str, Any]], rows: list[dict[str, Any]], number: int, before: dict[str, Any]
) -> dict[str, Any]:
    """Of each objective the best of these rows and those before."""
    best = dict(before)
    for objective in objectives:
        name, wanted = objective["name"], objective["wanted"]
        for row in rows:
            if name not in row["values"]:
                continue
            result = {"value": row["values"][name], "key": row["key"], "point": row["point"], "round": number}
            if name not in best or _loss(result["value"], wanted) < _loss(best[name]["value"], wanted):
                best[name] = result
    return best


def _loss(value: float, wanted: str | float) -> float:
    if isinstance(wanted, str):
        return value if wanted == "min" else -value
    return abs(value - wanted)
