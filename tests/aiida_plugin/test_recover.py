"""What a killed broker leaves behind, and that nothing else is touched."""

from pathlib import Path
from tempfile import mkdtemp

import pytest

aiida = pytest.importorskip("aiida", reason="aiida-core is an optional extra")

from aiida.brokers.zeromq.service import ZeromqBrokerService  # noqa: E402

from aiida_plugin.setup import recover  # noqa: E402


@pytest.fixture
def layout(aiida_profile, monkeypatch, tmp_path):
    """The files of a broker, as if the profile had AiiDA's own."""
    from aiida.manage.configuration import get_config

    config = get_config()
    profile = config.get_profile(aiida_profile.name)
    monkeypatch.setattr(type(profile), "process_control_backend", "core.zeromq")
    monkeypatch.setattr(type(config), "filepaths", lambda *_: {"broker_service": {"dir": tmp_path}})
    return ZeromqBrokerService.FilepathLayout(tmp_path)


def test_the_address_of_a_dead_broker_is_removed(layout, aiida_profile):
    sockets = Path(mkdtemp())
    (sockets / "router.sock").touch()
    layout.sockets_file.write_text(f"{sockets}\n")
    layout.pid_file.write_text("1")
    recover._forget_broker(aiida_profile.name)
    assert not sockets.exists()
    assert not layout.sockets_file.exists()
    assert not layout.pid_file.exists()
    recover._forget_broker(aiida_profile.name)  # nothing is there: nothing happens


@pytest.mark.parametrize("elsewhere", ["", "/", "/etc", "."])
def test_a_folder_elsewhere_is_left_alone(layout, aiida_profile, elsewhere, monkeypatch):
    removed = []
    monkeypatch.setattr(recover.shutil, "rmtree", lambda path, **_: removed.append(path))
    layout.sockets_file.write_text(elsewhere)
    recover._forget_broker(aiida_profile.name)
    assert removed == []
    assert not layout.sockets_file.exists()
