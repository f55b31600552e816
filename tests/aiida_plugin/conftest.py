"""Fixtures for the tests through AiiDA."""

import logging.config
import os
import sqlite3
import sys
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import pytest

if find_spec("sqlalchemy"):
    from sqlalchemy import Engine, event

    @event.listens_for(Engine, "connect")
    def _do_not_wait_for_the_disk(connection, _):
        """No test asks what is left after a power cut; a commit that waits for the disk takes ten milliseconds."""
        if isinstance(connection, sqlite3.Connection):
            connection.execute("PRAGMA synchronous = OFF")


def pytest_collection_modifyitems(items):
    """Whatever has a code runs jobs."""
    for item in items:
        if "aiida_code_installed" in getattr(item, "fixturenames", ()):
            item.add_marker("integration")


@pytest.fixture(scope="session", autouse=True)
def _no_fsync():
    """The same of the files of nodes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: None)
        yield


@pytest.fixture(scope="session", autouse=True)
def _aiida_asks_the_database_less_often():
    """Half of the time of AiiDA's processes goes into questions whose answers are known here.

    This process alone writes: each field is what it holds, and need not be read again each time it is used. (Tests of
    a daemon, where others write, ask through processes of their own.) A process without outputs has none that are
    stored. A file of the repository that is not packed is there if its file is. A link could close a circle only if
    its end were stored before its start, which AiiDA refuses elsewhere. Checkpoints are written by libyaml.
    """
    pytest.importorskip("aiida", reason="aiida-core is an optional extra")
    import yaml
    from aiida.engine.processes.process import Process
    from aiida.orm.nodes.links import NodeLinks
    from aiida.orm.utils import serialize
    from aiida.orm.utils.links import validate_link
    from aiida.repository.backend.disk_object_store import DiskObjectStoreRepositoryBackend as Repository
    from aiida.storage.psql_dos.orm.utils import ModelWrapper
    from aiida.storage.sqlite_dos import backend

    class Dumper(getattr(yaml, "CDumper", yaml.Dumper), serialize.AiiDADumper):
        pass

    def validate_incoming(self, source, link_type, link_label):
        validate_link(source, self._node, link_type, link_label, backend=self._node.backend)

    def update_outputs(self):
        if self._flat_outputs():
            update(self)

    def has_object(self, key):
        return self._container._get_loose_path_from_hashkey(key).exists() or has(self, key)

    make, update, has = backend.sessionmaker, Process.update_outputs, Repository.has_object
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(backend, "sessionmaker", lambda **options: make(**options | {"expire_on_commit": False}))
        patch.setattr(ModelWrapper, "_ensure_model_uptodate", lambda self, fields=None: None)
        patch.setattr(serialize, "AiiDADumper", Dumper)
        patch.setattr(NodeLinks, "validate_incoming", validate_incoming)
        patch.setattr(Process, "update_outputs", update_outputs)
        patch.setattr(Repository, "has_object", has_object)
        yield


@pytest.fixture(scope="session", autouse=True)
def _loggers_are_configured_at_once():
    """AiiDA configures them anew for each profile; Python then goes through all of them once for each of them."""
    configure, manager = logging.config.dictConfig, logging.Logger.manager

    def at_once(config):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(manager, "_clear_cache", lambda: None)
            configure(config)
        manager._clear_cache()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(logging.config, "dictConfig", at_once)
        yield


@pytest.fixture(autouse=True)
def _verdi_logs_to_stdout_only_while_it_runs():
    """AiiDA sends every report to stdout once a command of verdi has run in the process: undone after each test."""
    yield
    log = sys.modules.get("aiida.common.log")
    if log and log.CLI_ACTIVE:
        from aiida.manage import get_manager

        log.CLI_ACTIVE = log.CLI_LOG_LEVEL = None
        log.configure_logging(with_orm=get_manager().profile_storage_loaded)


@pytest.fixture
def warm_python(cgcnn_ase_command, monkeypatch):
    """A Python for jobs of ASE calculators that need not import ASE each time, and that counts as this environment's.

    Jobs of the interpreter itself are in test_ase_dft.
    """
    path = str(Path(cgcnn_ase_command).with_name("python"))
    monkeypatch.setattr("aiida_plugin.engines.base.sys", SimpleNamespace(executable=path))
    return path


@pytest.fixture
def aiida_localhost(aiida_computer):
    """This machine, for all codes of these tests: in place of AiiDA's own fixture.

    That asks for the jobs' states without a pause, each time in a login shell, which keeps a core busy.
    """
    return aiida_computer(
        label="localhost",
        minimum_job_poll_interval=0.1,
        configuration_kwargs={"use_login_shell": False, "safe_interval": 0.0},
    )
