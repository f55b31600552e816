"""The processes that a work chain has started already, so that a step that runs again starts none of them twice.

A work chain is written down after each step. If the daemon is killed in the middle of a step, the step runs again from
its beginning, though some of what it starts may have been started.
"""

from typing import TYPE_CHECKING, cast

from aiida.common.links import LinkType

if TYPE_CHECKING:
    from aiida.orm import ProcessNode


def started(caller: "ProcessNode", label: str) -> "ProcessNode | None":
    """The process that was called under this link label, None if there is none."""
    links = caller.base.links.get_outgoing(
        link_type=(LinkType.CALL_CALC, LinkType.CALL_WORK), link_label_filter=label
    ).all()
    return cast("ProcessNode", links[0].node) if links else None
