"""``cgcnn.cathode``: structures of a cathode material as a set, as ``cgcnn-ase cathode`` builds them."""

from dataclasses import asdict, dataclass
from typing import ClassVar, TypedDict

from aiida.engine import calcfunction
from aiida.orm import Dict

from aiida_plugin.calculations.settings import read_settings, versions_of
from aiida_plugin.data.model import CGCNNModelData
from aiida_plugin.data.structures import StructureSetData
from cgcnn_ase.cathodes import cathode_ids, cathodes
from cgcnn_ase.cathodes.build import LiRemoval, Ordering

_PACKAGES = ("ase", "cgcnn-ase", "icet", "numpy", "pymatgen", "spglib")


@dataclass(frozen=True, kw_only=True)
class CathodeOptions:
    """The options of ``cgcnn-ase cathode``, see :func:`cgcnn_ase.cathodes.cathodes`."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    name: str
    num: int = 1
    supercell: int | tuple[int, int, int] | None = None
    n_atoms: int = 100
    ordering: Ordering = "random"
    li_vacancy: float = 0.0
    li_removal: LiRemoval = "random"
    n_candidates: int = 20
    tolerance: float = 0.02
    seed: int = 42


class CathodeOutputs(TypedDict):
    """What `cathode` gives."""

    structures: StructureSetData
    manifest: Dict


def _versions() -> Dict:
    return Dict(versions_of(*_PACKAGES))


@calcfunction
def cathode(
    settings: Dict,
    model: CGCNNModelData | None = None,
    package_versions: Dict = _versions,  # type: ignore[assignment]  # AiiDA calls it for each run
) -> CathodeOutputs:
    """Build structures of a cathode material; the same as ``cgcnn-ase cathode`` with these options.

    Parameters
    ----------
    settings
        The options of the command, such as ``{"name": "NCM811", "li_vacancy": 0.1, "num": 3}``: ``name``, and those
        of :func:`cgcnn_ase.cathodes.cathodes`.
    model
        What gives the energies where ``ordering`` or ``li_removal`` is ``lowest``, and only there.
    package_versions
        Of what builds the structures, so that caching tells versions apart; filled in.

    Returns
    -------
    dict
        ``structures``, whose ids are the command's and whose info says what was realised; ``manifest``: all settings,
        package versions, and a row of plain values for each structure.

    Raises
    ------
    ValueError
        If a setting is unknown or impossible, or the model is missing or not needed; the message says what is allowed.
    """
    options = read_settings(settings.get_dict(), CathodeOptions)
    lowest = "lowest" in (options.ordering, options.li_removal)
    if lowest and model is None:
        raise ValueError(
            "'lowest' needs a model that gives the energies, as a node: "
            "model=CGCNNModelData.get_or_create('formation-energy-per-atom')"
        )
    if model is not None and not lowest:
        raise ValueError("a model is given, but neither ordering nor li_removal is 'lowest', which would use it")
    arguments = asdict(options)
    built = list(cathodes(arguments.pop("name"), model=None if model is None else model.load(), **arguments))
    ids = cathode_ids(built)
    rows = [{"id": name, "n_atoms": len(atoms), **atoms.info} for name, atoms in zip(ids, built, strict=True)]
    kept = {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(options).items()}
    manifest = {
        "settings": kept,
        "package_versions": package_versions.get_dict(),
        "n_structures": len(rows),
        "structures": rows,
    }
    return {"structures": StructureSetData.from_ase(built, ids), "manifest": Dict(manifest)}
