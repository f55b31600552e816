"""The processes that a work chain has started already, so that a step that runs again starts none of them twice.

A work chain is written down after each step. If the daemon is killed in the middle of a step, the step runs again from
its beginning, though some of what it starts may have been started.
"""

from typing import TYPE_CHECKING, Any

from aiida.common.links import LinkType

if TYPE_CHECKING:
    from aiida.orm import ProcessNode


def started(caller: "ProcessNode", label: str) -> "ProcessNode | None":
    """The process that was submitted under this link label, None if there is none."""
    found = _called(caller, label)
    return found[0] if found else None


def call_once(caller: "ProcessNode", label: str, function: Any, *args: Any, **kwargs: Any) -> "ProcessNode":
    """The process of a calcfunction under this link label; it is called unless it was, and came to its end.

    Parameters
    ----------
    caller
        The work chain that runs now.
    label
        Link label, of which there is one in the work chain.
    function, args, kwargs
        What to call; what it raises is raised.
    """
    before = [process for process in _called(caller, label) if process.is_finished_ok]
    if before:
        return before[0]
    function(*args, **kwargs, metadata={"call_link_label": label})
    return next(process for process in _called(caller, label) if process.is_finished_ok)


def _called(caller: "ProcessNode", label: str) -> "list[ProcessNode]":
    links = caller.base.links.get_outgoing(
        link_type=(LinkType.CALL_CALC, LinkType.CALL_WORK), link_label_filter=label
    ).all()
    return [link.node for link in links]  # type: ignore[misc]
