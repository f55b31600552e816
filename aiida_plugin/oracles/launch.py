"""Run a label work chain for an oracle, here or under the daemon."""

from contextlib import ExitStack
from typing import TYPE_CHECKING, cast

from aiida.engine import run_get_node
from aiida.manage.caching import enable_caching

if TYPE_CHECKING:
    from aiida.engine import ProcessBuilder
    from aiida.orm import WorkChainNode


def run_chain(builder: "ProcessBuilder", job: str, *, cached: bool) -> "WorkChainNode":
    """Run it in this process.

    Parameters
    ----------
    builder
        All inputs.
    job
        Entry point of the engine's jobs.
    cached
        Whether jobs that ran with the same inputs before are taken from AiiDA's cache.

    Raises
    ------
    KeyboardInterrupt
        If it was killed: AiiDA takes Ctrl-C as that, and ends the work chain.
    """
    with ExitStack() as stack:
        if cached:
            stack.enter_context(enable_caching(identifier=f"aiida.calculations:{job}"))
        _, node = run_get_node(builder)
    if node.is_killed:
        raise KeyboardInterrupt
    return cast("WorkChainNode", node)
