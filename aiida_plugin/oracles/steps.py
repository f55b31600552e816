"""Each round of an optimisation as a node of AiiDA's graph."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from aiida.common.hashing import make_hash
from aiida.orm import CalcFunctionNode, Dict, QueryBuilder

from aiida_plugin.calculations.functions.optimisation_step import optimisation_step
from aiida_plugin.data.structures import StructureSetData

if TYPE_CHECKING:
    from cgcnn_ase.optimization.records import Step

#: the type of the nodes
PROCESS_TYPE = "aiida.calculations:cgcnn.optimisation_step"


class StepRecorder:
    """Makes a ``cgcnn.optimisation_step`` node of each round, which leads to the labels and to the round before.

    Parameters
    ----------
    run
        ``config``, ``oracle`` (what it says of itself), ``objectives`` (name and what is wanted) and ``folder`` of the
        run, by which the round before is found again when a run is resumed.
    """

    def __init__(self, run: Mapping[str, Any]) -> None:
        self._run = dict(run)
        self._settings: Dict | None = None

    def __call__(self, step: "Step", failures: Sequence[Dict] = ()) -> Dict:
        """Record a round, unless it is recorded already.

        Parameters
        ----------
        step
            The round.
        failures
            Those of the label work chains of this round.

        Returns
        -------
        Dict
            Its log.
        """
        content: dict[str, Any] = {"round": step.round, "evaluations": [asdict(record) for record in step.records]}
        if (known := self._recorded(step.round, content)) is not None:
            return known
        if self._settings is None:
            self._settings = Dict(self._run).store()
        inputs: dict[str, Any] = {f"failures_{k}": node for k, node in enumerate(failures)}
        inputs |= {f"labelled_{k}": node for k, node in enumerate(_labelled(content["evaluations"]))}
        if (previous := self._recorded(step.round - 1)) is not None:
            inputs["previous"] = previous
        result: Dict = optimisation_step(self._settings, Dict(content), **inputs)
        return result

    def _recorded(self, number: int, content: Mapping[str, Any] | None = None) -> Dict | None:
        """The newest log of a round of this run, None if there is none; with `content` only if it is that."""
        query = QueryBuilder()
        query.append(Dict, filters={"attributes.folder": self._run["folder"]}, tag="settings")
        query.append(
            CalcFunctionNode, with_incoming="settings", filters={"process_type": PROCESS_TYPE}, tag="step", project="*"
        )
        query.append(Dict, with_incoming="step", filters={"attributes.round": number}, project="*", tag="log")
        row = query.order_by({"log": {"id": "desc"}}).first()
        if row is None:
            return None
        node, log = row
        result: Dict = log
        # by their hashes, as numbers come back from the database in 14 digits
        same = content is None or make_hash(node.inputs.evaluations.get_dict()) == make_hash(dict(content))
        return result if same else None


def record_steps(run: Mapping[str, Any]) -> "Callable[[Step], Dict]":
    """``optimise(..., on_step=record_steps(run))``: each round of any oracle as a node.

    An oracle that runs through AiiDA does so itself, and links its labels.

    Parameters
    ----------
    run
        ``config``, ``oracle``, ``folder`` and ``objectives``, each ``{"name": ..., "wanted": "min"}``.

    Raises
    ------
    ValueError
        If one of them is missing.
    """
    if missing := sorted({"config", "oracle", "folder", "objectives"} - set(run)):
        raise ValueError(f"run lacks {', '.join(missing)}")
    return StepRecorder(run)


def _labelled(rows: "Sequence[Mapping[str, Any]]") -> list[StructureSetData]:
    """The sets that the cells' energies are from, each once."""
    uuids = {cell["info"]["labelled"]: None for row in rows for cell in row["cells"].values()
             if "labelled" in cell.get("info", {})}  # fmt: skip
    query = QueryBuilder().append(StructureSetData, filters={"uuid": {"in": list(uuids)}}, tag="set")
    result: list[StructureSetData] = query.order_by({"set": {"id": "asc"}}).all(flat=True) if uuids else []
    if missing := sorted(set(uuids) - {node.uuid for node in result}):
        raise ValueError(f"the labels {missing[0]} of this run are not in this profile")
    return result
