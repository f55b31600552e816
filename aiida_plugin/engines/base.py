"""What every DFT engine must say: how a run is built, and what labels came out of it."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from aiida.engine import ProcessBuilder
    from aiida.orm import AbstractCode, ProcessNode, Str, StructureData

    from aiida_plugin.data.structures import StructureSetData


#: calls a calcfunction with inputs
Call = Callable[..., Any]


def plain_call(function: Callable[..., Any], **inputs: Any) -> Any:
    """Call a function with its inputs."""
    return function(**inputs)


class Engine(ABC):
    """A DFT code that labels one structure at a time through its own AiiDA plugin.

    An engine holds no state. The process that it builds handles what can go wrong in its own way (more steps, other
    mixing, a restart when out of time), so that who calls it sees a success or an exit code in words.
    """

    #: what users call it
    name: ClassVar[str]
    #: entry point (group ``aiida.calculations``) that its code is made for
    code_plugin: ClassVar[str]

    @abstractmethod
    def builder(
        self,
        structure: "StructureData",
        code: "AbstractCode",
        settings: Mapping[str, Any],
        *,
        moments: Mapping[str, float],
        options: Mapping[str, Any],
    ) -> "ProcessBuilder":
        """All inputs of one run.

        Parameters
        ----------
        structure
            What to label.
        code
            The code, of the plugin :attr:`code_plugin`.
        settings
            A resolved protocol; see :func:`aiida_plugin.engines.protocol.resolve`.
        moments
            Initial magnetic moment of each kind of the structure, by kind name, in μB; empty without spin.
        options
            ``metadata.options`` of the calculation jobs: resources, wall time, queue.

        Raises
        ------
        ValueError
            If the settings do not suit the engine, or what it needs is missing (pseudopotentials of an element, say);
            the message says what to do.
        """

    @abstractmethod
    def labelled(self, run: "ProcessNode", structure_id: "Str", call: Call = plain_call) -> "StructureSetData":
        """The labels of a finished run, as a set of one structure; made by a calcfunction, so that links lead back.

        `call` is what calls the calcfunction: a work chain's `call_once`, say.

        The structure carries energy (eV), and where the engine gives them forces (eV/Å), stress (eV/Å³) and magnetic
        moments, and the label scheme (:mod:`aiida_plugin.data.labels`) read from what the run says of itself.

        Raises
        ------
        ValueError
            If the run's outputs hold no energy.
        """
