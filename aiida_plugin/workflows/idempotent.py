"""Steps of a work chain that may be taken twice: a call is found again by its label.

AiiDA saves a work chain between its steps. Where the daemon dies within a step, the step is taken again from its start,
and what it had called or submitted before would be called or submitted twice. `call_once` and `submit_once` name each
call by the label of its link, look among what the work chain has called before, and take what is there.
"""

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeVar, cast

from aiida.common.links import LinkType
from aiida.engine import Process, ProcessBuilder, ProcessState, WorkChain
from aiida.orm import CalcJobNode, Data, ProcessNode

if TYPE_CHECKING:
    from aiida.engine.processes.functions import ProcessFunctionType

R = TypeVar("R")

_INTERRUPTED = "the daemon died before this was done; the work chain calls it again, under the same link label"
_OLD_NAMES = {"agreement": "prediction_errors"}  # of calcfunctions in processes of earlier versions


def call_once(chain: WorkChain, label: str, function: "ProcessFunctionType[..., R, Any]", **inputs: Any) -> R:
    """Call a calcfunction or workfunction in a step of a work chain, or take what it gave before.

    Parameters
    ----------
    chain
        The work chain, ``self`` in a step.
    label
        The label of the call, of which a work chain has one: in a loop, with the number of the turn.
    function, **inputs
        A calcfunction or workfunction, and its inputs; other inputs than before under the label are a ValueError.

    Returns
    -------
    Any
        A node, or a dictionary of nodes: of a call that ended before, its outputs. A call that was interrupted is
        marked as excepted, and the function is called again.
    """
    for node in _called(chain, label, function.process_class.build_process_type(), inputs):
        if node.is_finished_ok:
            return cast("R", _returned(node))
        _give_up(node)
    return function(**inputs, metadata={"call_link_label": label})


def submit_once(chain: WorkChain, label: str, process: type[Process] | ProcessBuilder, **inputs: Any) -> ProcessNode:
    """Submit a job or work chain in a step of a work chain, or take the one that was submitted before, for
    ``ToContext``.

    Parameters and errors as of `call_once`; a filled builder takes no further inputs. What is taken may have ended
    already; one whose submission was cut off is marked as excepted, and another is submitted.
    """
    if isinstance(process, ProcessBuilder):
        builder = process
        process, inputs = builder.process_class, builder._inputs(prune=True)
    if (node := submitted(chain, label, process, inputs)) is not None:
        return node
    inputs["metadata"] = {**inputs.get("metadata", {}), "call_link_label": label}
    return chain.submit(process, inputs)


def submitted(
    chain: WorkChain, label: str, process: type[Process], inputs: Mapping[str, object] = MappingProxyType({})
) -> ProcessNode | None:
    """Find the job or work chain that was submitted under this label; None if there is none or it was cut off."""
    for node in _called(chain, label, process.build_process_type(), inputs):
        if not never_began(node):
            return node
        _give_up(node)
    return None


def never_began(node: ProcessNode) -> bool:
    """Tell whether the daemon died between storing a job or work chain and submitting it, so that it can never run.

    Such a node has no checkpoint to go on from and no trace of a first step. AiiDA leaves it as created, or, once
    ``verdi process repair`` was used, as excepted for want of a checkpoint.
    """
    if node.is_finished or node.is_killed or node.exit_status is not None or node.checkpoint is not None:
        return False
    if node.is_excepted and not any(word in (node.exception or "") for word in (_INTERRUPTED, "PersistenceError")):
        return False
    began = node.get_state() if isinstance(node, CalcJobNode) else getattr(node, "stepper_state_info", None)
    return began is None and not node.base.links.get_outgoing().all_link_labels()


def is_process_of(stored: str | None, process_type: str) -> bool:
    """Tell whether a stored process type is this one, or that by which an earlier version stored the same calcfunction.

    Not all calcfunctions had entry points then: ``aiida_plugin.calculations.extract.extract`` was the type of what is
    ``aiida.calculations:cgcnn.extract`` today.
    """
    if stored == process_type:
        return True
    old_name = (stored or "").rpartition(".")[2]
    name = f"aiida.calculations:cgcnn.{_OLD_NAMES.get(old_name, old_name)}"
    return (stored or "").startswith("aiida_plugin.") and name == process_type


def _called(chain: WorkChain, label: str, kind: str, inputs: Mapping[str, object]) -> Iterator[ProcessNode]:
    """Yield what the work chain called under this label, the last first."""
    links = chain.node.base.links.get_outgoing(link_type=(LinkType.CALL_CALC, LinkType.CALL_WORK)).all()
    nodes = (cast("ProcessNode", link.node) for link in links if link.link_label == label)
    for node in sorted(nodes, key=lambda node: node.pk or 0, reverse=True):
        if not is_process_of(node.process_type, kind):
            raise ValueError(f"the label {label!r} belongs to {node.process_label} ({node.pk}), and cannot be {kind}'s")
        if odd := _other_inputs(node, inputs):
            raise ValueError(
                f"{node.process_label} ({node.pk}) was called as {label!r} with another {', '.join(odd)}; a work chain "
                "needs a label of its own for each call"
            )
        yield node


def _other_inputs(node: ProcessNode, inputs: Mapping[str, object]) -> list[str]:
    """Names of the inputs that are not those of the node, as far as stored nodes show it."""
    before = node.base.links.get_incoming(link_type=(LinkType.INPUT_CALC, LinkType.INPUT_WORK)).nested()
    return sorted(name for name, value in inputs.items() if _differs(before.get(name), value))


def _differs(one: object, other: object) -> bool:
    if not (isinstance(other, Data) and other.is_stored and isinstance(one, Data)) or one.uuid == other.uuid:
        return False
    return bool(one.base.caching.compute_hash() != other.base.caching.compute_hash())


def _returned(node: ProcessNode) -> object:
    """Return value of a process function."""
    outputs = dict(node.base.links.get_outgoing(link_type=(LinkType.CREATE, LinkType.RETURN)).nested())
    return outputs["result"] if set(outputs) == {"result"} else outputs


def _give_up(node: ProcessNode) -> None:
    """Mark what was interrupted, so that nothing waits for it."""
    if not node.is_terminated:
        node.set_exception(_INTERRUPTED)
        node.set_process_state(ProcessState.EXCEPTED)
        node.set_process_status(None)
    if not node.is_sealed:
        node.seal()
