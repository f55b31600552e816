"""An oracle whose values are labels of ``cgcnn.label``: its work chains run here or under the daemon."""

import json
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from hashlib import sha256
from typing import TYPE_CHECKING, Annotated, Any, cast

from aiida.common.exceptions import ConfigurationError, MultipleObjectsError, NotExistent
from aiida.engine import run_get_node, submit
from aiida.engine.daemon.client import get_daemon_client
from aiida.engine.daemon.execmanager import kill_calculation
from aiida.manage.caching import enable_caching
from aiida.manage.configuration import load_profile
from aiida.orm import CalcJobNode, Data, QueryBuilder, WorkChainNode, load_code
from plumpy.exceptions import KilledError
from pydantic import Field

from aiida_plugin.calculations.functions.optimisation_step import StepRecorder
from aiida_plugin.data.labels import scheme_id, scheme_of
from aiida_plugin.data.structure_archive.arrays import hash_of_atoms
from aiida_plugin.data.structures import StructureSetData
from aiida_plugin.engines.base import engine as engine_of
from aiida_plugin.engines.base import label_scale
from aiida_plugin.engines.protocol import DEFAULT_PROTOCOL, resolve
from cgcnn_ase.core.settings import Settings
from cgcnn_ase.optimization.oracles import Evaluation, OracleError
from cgcnn_ase.optimization.space.variables import Point

if TYPE_CHECKING:
    from aiida.engine import ProcessBuilder
    from aiida.orm import AbstractCode, Dict, WorkChainNode
    from ase import Atoms

    from cgcnn_ase.optimization.records import Step

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


class DFTSettings(Settings):
    """Options of ``gpaw``, ``quantumespresso``, ``cp2k`` and ``vasp``."""

    code: str | None = None  # label of the engine's code; default the one that ``aiida-cgcnn setup`` makes
    protocol: str = DEFAULT_PROTOCOL  # fast, balanced or stringent, as of the labels
    overrides: dict[str, Any] = Field(default_factory=dict)  # settings over the protocol's
    options: dict[str, Any] = Field(default_factory=dict)  # ``metadata.options`` of the jobs: resources, wall time
    references: dict[str, float] | None = None  # energies of the elements, eV/atom; default computed where needed
    submit: bool = False  # by the daemon, which is waited for; default in this process
    max_parallel: Annotated[int, Field(gt=0, strict=True)] | None = None  # runs at a time; default all of a round


# objectives that need energies of elements, and of which; None: of all in the structure
_ELEMENTS = {"formation_energy_per_atom": None, "voltage": "Li"}


class DFTOracle:
    """Total energies by DFT through AiiDA: one label work chain for all cells of a round.

    In this process a run that was done before with the same inputs is taken from AiiDA's cache; under the daemon a work
    chain on the same structure, done or still running, is found again. So what was computed before a kill is not
    computed twice.

    A ValueError is raised where there is no profile, no such code, protocol or setting, or the engine's AiiDA plugin is
    not installed.
    """

    def __init__(self, engine: str, settings: DFTSettings) -> None:
        self.name = engine
        self.references: Mapping[str, float] | None = settings.references
        self._profile = open_default_profile()
        self._options = settings
        self._engine = engine_of(engine)
        self._code = code_of(engine, settings.code)
        self._resolved = resolve(engine, settings.protocol, settings.overrides)
        self._elements: set[str | None] = set()
        self._reference_energies: Dict | None = None
        self._unlucky: set[str] = set()
        self._failures: list[Dict] = []
        self._recorder: StepRecorder | None = None

    def describe(self) -> dict[str, Any]:
        """Engine, version where it is known before a run, profile, code and all settings."""
        version = self._engine.version(self._code)
        return {
            "name": self.name,
            "what": self._engine.describe(self._resolved, self._options.protocol, version),
            "version": version,
            "profile": self._profile,
            "code": self._code.full_label,
            "settings": self._resolved,
            "references": self._options.references,
        }

    def begin(self, run: Mapping[str, Any]) -> None:
        """Decide which reference energies to compute, and keep what each round's node says of the run."""
        names = {one["name"] for one in run["objectives"] if one["model"] is None} & set(_ELEMENTS)
        self._elements = set() if self._options.references is not None else {_ELEMENTS[name] for name in names}
        self._recorder = StepRecorder(run)

    def on_step(self, step: "Step") -> None:
        """Record a round that is complete as a node."""
        failures, self._failures = self._failures, []
        if self._recorder is not None:
            self._recorder(step, failures)

    def evaluate(self, point: Point, atoms: "Atoms | None") -> Evaluation:
        """Evaluate one point, as `evaluate_many` does."""
        ((_, reply),) = self.evaluate_many([point], [atoms])
        if isinstance(reply, OracleError):
            raise reply
        return reply

    def evaluate_many(
        self, points: Sequence[Point], structures: "Sequence[Atoms | None]"
    ) -> Iterator[tuple[int, Evaluation | OracleError]]:
        """Yield the place and ``energy`` (eV a cell) of each structure, when all of them are done.

        Structures that are the same to 0.001 Å are computed once. ``info`` holds the uuid of the set with the labels
        (``labelled``), the structure's ``id`` in it, the uuid of the ``label_workchain``, the ``scheme_id``, the
        ``engine_version``, and the ``scale`` of the energy (:func:`aiida_plugin.engines.base.label_scale`). A code of
        another engine, and a daemon that does not run, are ValueErrors.
        """
        places: dict[str, list[int]] = {}
        cells: dict[str, Atoms] = {}
        for k, (_, atoms) in enumerate(zip(points, structures, strict=True)):
            if atoms is None:
                yield k, OracleError(f"{self.name} needs a structure, and the configuration makes none")
                continue
            name = f"{atoms.get_chemical_formula()}-{hash_of_atoms(atoms):016x}"
            places.setdefault(name, []).append(k)
            cells.setdefault(name, atoms)
        if not cells:
            return
        for chain, names in self._chains(cells):
            for name in names:
                reply = self._answer(chain, name)
                if isinstance(reply, OracleError):
                    self._unlucky.add(name)
                for k in places[name]:
                    yield k, reply

    def _chains(self, cells: "Mapping[str, Atoms]") -> "Iterator[tuple[WorkChainNode, list[str]]]":
        """Label work chains when they have ended, each with the cells whose labels it was to give."""
        if not self._options.submit:
            cached = not self._unlucky & set(cells)
            chain = run_chain(self._builder(cells), self._engine.code_plugin, cached=cached)
            self._learn(chain)
            yield chain, list(cells)
            return
        waiting = chains_of(self._key, cells)
        rest = {name: atoms for name, atoms in cells.items() if not any(name in mine for _, mine in waiting)}
        if rest:
            waiting.append((submit_chain(self._builder(rest), self._key, list(rest)), list(rest)))
        for chain, names in terminated(waiting):
            self._learn(chain)
            yield chain, names

    def _builder(self, cells: "Mapping[str, Atoms]") -> "ProcessBuilder":
        from aiida_plugin.workflows.label import LabelWorkChain

        return LabelWorkChain.get_builder_from_protocol(
            self._code,
            StructureSetData.from_ase(cells.values(), list(cells)),
            self.name,
            self._options.protocol,
            self._options.overrides,
            options=self._options.options,
            references=bool(self._elements),
            reference_energies=self._reference_energies,
            max_parallel=self._options.max_parallel,
            check=False,  # a round of bad cells ends no search
        )

    @property
    def _key(self) -> str:
        """Digest of what beside the structure decides a label."""
        decides = [self.name, self._code.uuid, self._resolved, bool(self._elements)]
        return sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()

    def _learn(self, chain: "WorkChainNode") -> None:
        """Keep what of a work chain is of use to others: the energies of the elements, and what failed."""
        for nodes in (chain.inputs, chain.outputs):  # what it computed holds what it was given
            if "reference_energies" in nodes:
                self._reference_energies = nodes.reference_energies
                self.references = dict(nodes.reference_energies["energies"])
        if "failures" in chain.outputs and chain.outputs.failures["n_failed"]:
            self._failures.append(chain.outputs.failures)

    def _answer(self, chain: "WorkChainNode", name: str) -> Evaluation | OracleError:
        failures = chain.outputs.failures.get_dict() if "failures" in chain.outputs else {}
        failed = failures.get("failed", {})
        if name in failed:
            return OracleError(f"{failed[name]['message']} (label work chain {chain.pk})")
        if "labelled" not in chain.outputs or name not in chain.outputs.labelled.ids:
            why = chain.exit_message or getattr(chain.process_state, "value", "lost")
            return OracleError(f"label work chain {chain.pk} gave no label: {why}")
        labelled: StructureSetData = chain.outputs.labelled
        atoms = labelled.atoms(name)
        for element in sorted(set(atoms.symbols) if None in self._elements else self._elements - {None}):
            if element not in (self.references or {}):
                why = failures.get("references_failed", {}).get(element, {}).get("message", chain.exit_message)
                return OracleError(f"the energy of {element} is not known: {why} (label work chain {chain.pk})")
        scheme = scheme_of(atoms) or {}
        info = {
            "labelled": labelled.uuid,
            "id": name,
            "label_workchain": chain.uuid,
            "scheme_id": scheme_id(scheme),
            "engine_version": scheme.get("engine_version"),
            "scale": label_scale(scheme, set(atoms.symbols)),
        }
        return Evaluation({"energy": atoms.get_potential_energy()}, {}, info)
