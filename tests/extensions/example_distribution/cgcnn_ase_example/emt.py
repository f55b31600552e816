"""A DFT engine: effective-medium theory, which is not DFT, but takes a moment and shows every part."""

from typing import TYPE_CHECKING

from aiida_plugin.engines.ase import ASEJobsEngine
from aiida_plugin.engines.base import CommonSettings, Run

if TYPE_CHECKING:
    from aiida.engine import ProcessBuilder


class EMTSettings(CommonSettings):
    """Settings that emt.yaml adds."""

    asap_cutoff: bool


class EMTEngine(ASEJobsEngine[EMTSettings]):
    """ASE's EMT, to try workflows with."""

    name = "emt"  # of the entry point
    title = "EMT"  # for people

    def builder(self, run: Run[EMTSettings]) -> "ProcessBuilder":
        """Fill the inputs of the job that computes one structure."""
        job = {"calculator": "emt", "parameters": {"asap_cutoff": run.settings["asap_cutoff"]}}
        return self.job(run, (), job)

    def describe(self, settings: EMTSettings, protocol: str, version: str | None = None) -> str:
        """Describe runs for people; without this, the functional would be named, which EMT has not."""
        cutoff = "ASAP's cutoff" if settings["asap_cutoff"] else "ASE's cutoff"
        return f"{self.title} ({cutoff}, protocol {protocol}) through AiiDA"
