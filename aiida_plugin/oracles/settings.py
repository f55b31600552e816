"""What stands in the ``oracle`` block of an optimisation by DFT."""

from typing import Annotated, Any

from pydantic import Field

from aiida_plugin.engines.protocol import DEFAULT_PROTOCOL
from cgcnn_ase.active.oracles.settings import Settings


class DFTSettings(Settings):
    """Options of ``gpaw``, ``quantumespresso``, ``cp2k`` and ``vasp``."""

    code: str | None = None  #: label of the engine's code; default the one that ``aiida-cgcnn setup`` makes
    protocol: str = DEFAULT_PROTOCOL  #: fast, balanced or stringent, as of the labels
    overrides: dict[str, Any] = Field(default_factory=dict)  #: settings over the protocol's
    options: dict[str, Any] = Field(default_factory=dict)  #: ``metadata.options`` of the jobs: resources, wall time
    references: dict[str, float] | None = None  #: energies of the elements, eV/atom; default computed where needed
    submit: bool = False  #: by the daemon, which is waited for; default in this process
    max_parallel: Annotated[int, Field(gt=0, strict=True)] | None = None  #: runs at a time; default all of a round
