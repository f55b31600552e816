"""Engines by name: those of this package, and one that another package brings."""

import sys

import pytest

pytest.importorskip("aiida", reason="aiida-core is an optional extra")

from aiida import orm
from aiida.common.links import LinkType
from aiida.engine import run_get_node
from ase.build import bulk
from ase.calculators.emt import EMT

from aiida_plugin.data.labels import scheme_of
from aiida_plugin.data.structures import StructureSetData
from aiida_plugin.engines.base import engine, engine_names
from aiida_plugin.engines.protocol import protocol_names, resolve
from aiida_plugin.provenance.label_kinds import engine_process_types
from aiida_plugin.setup.codes import wanted_codes
from aiida_plugin.workflows.label import LabelWorkChain

MODULE = '''
from aiida_plugin.engines.ase import ASEJobsEngine


class Strained(ASEJobsEngine):
    """EMT, which has a setting of its own."""

    name = "strained"
    title = "Strained EMT"

    def builder(self, run):
        return self.job(run, (), {"calculator": "emt", "parameters": {"asap_cutoff": run.settings["asap_cutoff"]}})

    def basis(self, settings):
        return f"cutoff as asap: {settings['asap_cutoff']}"
'''
YAML = "default: {asap_cutoff: false}\nprotocols:\n  stringent: {asap_cutoff: true}\n"


@pytest.fixture
def other_package(tmp_path, monkeypatch):
    """A package that is installed: one file, one YAML beside it, one entry point."""
    (tmp_path / "strained_emt.py").write_text(MODULE)
    (tmp_path / "strained_emt.yaml").write_text(YAML)
    about = tmp_path / "strained_emt-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: strained-emt\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[cgcnn.engines]\nstrained = strained_emt:Strained\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield
    sys.modules.pop("strained_emt", None)


def test_an_engine_of_another_package(other_package, aiida_profile, aiida_code_installed):
    assert "strained" in engine_names()
    assert resolve("strained", "stringent")["asap_cutoff"]
    assert (
        engine("strained").describe(resolve("strained"), "balanced").startswith("Strained EMT (PBE+U, cutoff as asap")
    )
    with pytest.raises(ValueError, match="no setting cutoff; allowed: functional, .*asap_cutoff"):
        resolve("strained", overrides={"cutoff": 300})

    code = aiida_code_installed(default_calc_job_plugin="cgcnn.ase_dft", filepath_executable=sys.executable)
    atoms = bulk("Cu", a=3.7)
    structures = StructureSetData.from_ase([atoms], ["Cu"])
    _, chain = run_get_node(LabelWorkChain.get_builder_from_protocol(code, structures, "strained", "stringent"))
    assert chain.is_finished_ok, chain.exit_message
    labelled = chain.outputs.labelled.atoms("Cu")
    atoms.calc = EMT(asap_cutoff=True)
    assert labelled.get_potential_energy() == pytest.approx(atoms.get_potential_energy())
    assert scheme_of(labelled)["parameters"] == {"asap_cutoff": True}


@pytest.mark.parametrize("name", engine_names())
def test_each_engine_says_what_it_is(name, aiida_profile):
    settings = {protocol: resolve(name, protocol) for protocol in protocol_names()}
    assert settings["fast"] != settings["stringent"]
    spec = engine(name).setup_code()
    assert spec is None or (spec.plugin == engine(name).code_plugin and spec.label in {s.label for s in wanted_codes()})
    assert f"aiida.calculations:{engine(name).code_plugin}" in engine_process_types()


def test_an_engine_that_is_not_there():
    with pytest.raises(ValueError, match="unknown engine 'gpw'; did you mean gpaw"):
        engine("gpw")


PW_ERROR = """
     Program PWSCF v.6.7MaX starts on 30Nov2026 at  2: 0: 0

 %%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%
     Error in routine offset_atom_wfc (1):
     wrong offset
 %%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%

     stopping ...
"""
CP2K_ERROR = """
 *******************************************************************************
 *   ___                                                                       *
 *  /   \\                                                                      *
 * [ABORT]                                                                     *
 *  \\___/                The requested basis set <DZVP> for element <Ni>        *
 *    |                         was not found in the basis set files            *
 *  O/|                                                                        *
 * /| |                                                                        *
 * / \\                                          qs_kind_types.F:1234            *
 *******************************************************************************
"""


@pytest.mark.parametrize(
    ("name", "files", "words"),
    [
        ("quantumespresso", {"aiida.out": PW_ERROR}, "Error in routine offset_atom_wfc (1): wrong offset"),
        ("quantumespresso", {"CRASH": PW_ERROR}, "Error in routine offset_atom_wfc (1): wrong offset"),
        ("quantumespresso", {"_scheduler-stderr.txt": "a\npw.x: cannot open libfftw3.so\n\n"}, "libfftw3.so"),
        ("cp2k", {"aiida.out": CP2K_ERROR}, "The requested basis set <DZVP> for element <Ni> was not found in the ba"),
        ("vasp", {"_scheduler-stderr.txt": "POTCAR: No such file"}, "POTCAR: No such file"),
    ],
)
def test_a_failure_keeps_the_reason_of_the_code(name, files, words, aiida_profile, aiida_localhost):
    """The work chain knows its own exit code only; what the code said is in the files of its last job."""
    pytest.importorskip({"quantumespresso": "aiida_quantumespresso", "cp2k": "aiida_cp2k", "vasp": "aiida_vasp"}[name])
    chain = orm.WorkChainNode().store()
    job = orm.CalcJobNode(computer=aiida_localhost)
    job.set_options({"resources": {"num_machines": 1}, "scheduler_stderr": "_scheduler-stderr.txt"})
    job.base.links.add_incoming(chain, link_type=LinkType.CALL_CALC, link_label="iteration_01")
    job.store()
    retrieved = orm.FolderData()
    for path, text in files.items():
        retrieved.base.repository.put_object_from_bytes(text.encode(), path)
    retrieved.base.links.add_incoming(job, link_type=LinkType.CREATE, link_label="retrieved")
    retrieved.store()
    for node, status, message in ((job, 305, "Both outputs are bad."), (chain, 300, "It failed unrecoverably.")):
        node.set_process_state("finished")
        node.set_exit_status(status)
        node.set_exit_message(message)
    failure = engine(name).failure(chain)
    assert failure.startswith("It failed unrecoverably; Both outputs are bad; ")
    assert words in failure
