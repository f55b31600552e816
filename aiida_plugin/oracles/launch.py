"""Run a label work chain for an oracle, here or under the daemon."""

import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING, cast

from aiida.common.exceptions import ConfigurationError, MultipleObjectsError, NotExistent
from aiida.engine import run_get_node, submit
from aiida.engine.daemon.client import get_daemon_client
from aiida.engine.daemon.execmanager import kill_calculation
from aiida.manage.caching import enable_caching
from aiida.manage.configuration import load_profile
from aiida.orm import CalcJobNode, Data, QueryBuilder, WorkChainNode, load_code
from plumpy.exceptions import KilledError

from aiida_plugin.engines.base import engine as engine_of

if TYPE_CHECKING:
    from aiida.engine import ProcessBuilder
    from aiida.orm import AbstractCode

SETUP = "verdi presto --use-zeromq && aiida-cgcnn setup"  # what makes all that a DFT run needs


def open_default_profile() -> str:
    """The name of the profile that is loaded; the default one is loaded where none is."""
    try:
        return str(load_profile().name)
    except ConfigurationError as error:
        raise ValueError(f"DFT through AiiDA needs a profile, and there is none; make it: {SETUP}") from error


def code_of(engine: str, label: str | None) -> "AbstractCode":
    """The code of an engine by its label, by default the one that ``aiida-cgcnn setup`` makes.

    A ValueError is raised if there is no such code, more than one, or none that could be taken by default.
    """
    spec = engine_of(engine).setup_code()
    name = label or (None if spec is None else f"{spec.label}@localhost")
    if name is None:
        raise ValueError(f"oracle.code: {engine} has no code by default; name yours, as `verdi code list` shows it")
    try:
        return load_code(name)
    except NotExistent as error:
        raise ValueError(
            f"oracle.code: there is no code {name!r}; make it with `aiida-cgcnn setup`, or name one of `verdi code "
            "list`"
        ) from error
    except MultipleObjectsError as error:
        raise ValueError(f"oracle.code: there are several codes {name!r}; name one as label@computer") from error


# the extra by which a submitted work chain is found again: ``key``, and ``cells``: the ids of its structures
_EXTRA = "cgcnn_oracle"

_LOOK = 2.0  # seconds between two looks at what the daemon runs


def run_chain(builder: "ProcessBuilder", job: str, *, cached: bool) -> "WorkChainNode":
    """Run it in this process; where it is `cached`, jobs (by entry point) that ran before come from AiiDA's cache.

    A KeyboardInterrupt is raised if it was killed: AiiDA takes Ctrl-C as that. Its jobs are ended, too.
    """
    try:
        with ExitStack() as stack:
            if cached:
                stack.enter_context(enable_caching(identifier=f"aiida.calculations:{job}"))
            _, node = run_get_node(builder)
    except KilledError as error:
        _end_jobs(builder["structures"])
        raise KeyboardInterrupt from error
    return cast("WorkChainNode", node)


def _end_jobs(structures: Data) -> None:
    """End the jobs that an interrupted work chain on these structures has left running."""
    for chain in structures.base.links.get_outgoing(node_class=WorkChainNode).all_nodes():
        for job in chain.called_descendants:
            if isinstance(job, CalcJobNode) and not job.is_finished and job.get_job_id() is not None:
                with job.get_transport() as transport:
                    kill_calculation(job, transport)


def submit_chain(builder: "ProcessBuilder", key: str, cells: list[str]) -> WorkChainNode:
    """Give it to the daemon, which must run, so that `chains_of` finds it again."""
    try:
        running = get_daemon_client().is_daemon_running
    except ConfigurationError as error:
        raise ValueError(f"oracle.submit: this profile has no daemon: {error}; leave `submit` out") from error
    if not running:
        raise ValueError("oracle.submit: the daemon does not run; start it: verdi daemon start, or leave `submit` out")
    chain = submit(builder)
    chain.base.extras.set(_EXTRA, {"key": key, "cells": cells})
    return cast("WorkChainNode", chain)


def chains_of(key: str, cells: Iterable[str]) -> list[tuple[WorkChainNode, list[str]]]:
    """Find submitted work chains that label these cells (ids of structures), each with its cells.

    Running ones too, but none that failed on a cell; `key` is what beside the structures decides the labels.
    """
    left = set(cells)
    query = QueryBuilder().append(WorkChainNode, filters={f"extras.{_EXTRA}.key": key}, tag="chain")
    result: list[tuple[WorkChainNode, list[str]]] = []
    for (chain,) in query.order_by({"chain": {"id": "desc"}}).iterall():
        mine = left & set(chain.base.extras.get(_EXTRA)["cells"])
        if mine and chain.is_terminated:
            mine &= set(chain.outputs.labelled.ids) if "labelled" in chain.outputs else set()
        if mine:
            result.append((chain, sorted(mine)))
            left -= mine
    return result


def terminated(chains: list[tuple[WorkChainNode, list[str]]]) -> Iterator[tuple[WorkChainNode, list[str]]]:
    """Each as soon as it has ended."""
    waiting = list(chains)
    while waiting:
        for each in [each for each in waiting if each[0].is_terminated]:
            waiting.remove(each)
            yield each
        if waiting:
            time.sleep(_LOOK)
