"""A structure with a Hubbard U, as aiida-quantumespresso takes it."""

from typing import TYPE_CHECKING

from aiida.engine import calcfunction
from aiida.orm import Dict, StructureData

if TYPE_CHECKING:
    from aiida_quantumespresso.data.hubbard_structure import HubbardStructureData


@calcfunction
def with_hubbard(structure: StructureData, hubbard: Dict) -> "HubbardStructureData":
    """The structure with U on its kinds.

    Parameters
    ----------
    structure
        It keeps its kinds and their names.
    hubbard
        ``values`` (eV by kind name), ``shells`` (``3d``, ... by kind name), ``projectors`` (``ortho-atomic``, ...).
    """
    from aiida_quantumespresso.common.hubbard import Hubbard
    from aiida_quantumespresso.data.hubbard_structure import HubbardStructureData

    wanted = hubbard.get_dict()
    made = HubbardStructureData.from_structure(structure, Hubbard(parameters=[], projectors=wanted["projectors"]))
    for kind, value in sorted(wanted["values"].items()):
        made.initialize_onsites_hubbard(kind, wanted["shells"][kind], value, "U", use_kinds=True)
    return made
