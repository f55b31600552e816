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
