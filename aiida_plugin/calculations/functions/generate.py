"""``cgcnn.defects`` and ``cgcnn.cathode``: sets of structures as the commands of the same names make them."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any, ClassVar, TypedDict, TypeVar

from aiida.engine import calcfunction
from aiida.orm import Dict, StructureData
from pydantic import TypeAdapter, ValidationError

from aiida_plugin.calculations.functions import node_default, versions_of
from aiida_plugin.data.model import CGCNNModelData
from aiida_plugin.data.structures import StructureSetData
from cgcnn_ase.cathodes import cathode_ids, cathodes
from cgcnn_ase.cathodes.build import LiRemoval
from cgcnn_ase.defects.generate import DefectOptions, generate_defects
from cgcnn_ase.structures.arrangement import OrderingMethod

if TYPE_CHECKING:
    from _typeshed import DataclassInstance
    from ase import Atoms

    Options = TypeVar("Options", bound=DataclassInstance)

_OF_HOST = ("name", "structure")  # settings that say which host it is, and what it is called


class GeneratedSet(TypedDict):
    """Outputs of both functions."""

    structures: StructureSetData
    manifest: Dict


_FOR_DEFECTS = ("cgcnn-ase", "doped", "numpy", "pymatgen", "pymatgen-analysis-defects", "shakenbreak", "spglib")
_VERSIONS_FOR_DEFECTS = node_default(versions_of(*_FOR_DEFECTS), Dict)


@calcfunction
def defects(
    host: StructureSetData | StructureData, settings: Dict, package_versions: Dict = _VERSIONS_FOR_DEFECTS
) -> GeneratedSet:
    """Make the point defects of a host, each in a supercell; the same as ``cgcnn-ase defects`` with these options.

    Parameters
    ----------
    host
        A crystal or layer: a structure, or a set that holds it.
    settings
        The options of the command, such as ``{"element": "Li", "supercell": [3, 3, 1]}``, see
        :class:`cgcnn_ase.defects.generate.DefectOptions`; ``structure`` is the id of
        the host in a set of several, ``name`` what the ids of the defects begin with (by default that id, the label of
        a structure, or ``host``).
    package_versions
        Of what makes the defects, so that caching tells versions apart; filled in.

    Returns
    -------
    dict
        ``structures``, whose ids are the command's and whose ``info["defect"]`` are the manifests; ``manifest``: the
        host's name, all settings, package versions, and a row of plain values for each structure.

    Raises
    ------
    ValueError
        If a setting is unknown or does not suit the host; the message says what is allowed.
    ImportError
        If charges or distortions are asked for and their package is not installed.
    """
    values = settings.get_dict()
    options = _read_options(values, DefectOptions, besides=_OF_HOST)
    name, atoms = _host(host, values.get("structure"))
    name = str(values.get("name", name))
    made = list(generate_defects(atoms, options, name=name))
    if not made:
        raise ValueError(f"{name}: the host has no such defects; other settings may find some")
    rows = [dict(defect.manifest.to_info()["defect"]) for defect in made]
    return {
        "structures": StructureSetData.from_ase((defect.atoms for defect in made), [row["id"] for row in rows]),
        "manifest": Dict({"host": name, **_manifest(options, package_versions, rows)}),
    }


def _host(node: StructureSetData | StructureData, structure: str | None) -> "tuple[str, Atoms]":
    """Name of the host, and the host."""
    if isinstance(node, StructureSetData):
        if structure is None and len(node) != 1:
            few = ", ".join(node.ids[:5]) + (", ..." if len(node) > 5 else "")
            raise ValueError(f"the set holds {len(node)} structures; name the host as setting structure ({few})")
        row = 0 if structure is None else node.row_of(structure)
        return node.ids[row], node.atoms(row)
    if structure is not None:
        raise ValueError(f"setting structure is {structure!r}, but the host is one structure, no set")
    if node.is_alloy or node.has_vacancies:
        raise ValueError("the host has partially occupied sites; order it first: cgcnn-ase defects --order-disordered")
    return node.label or "host", node.get_ase()


@dataclass(frozen=True, kw_only=True)
class CathodeOptions:
    """Options of ``cgcnn-ase cathode``, see :func:`cgcnn_ase.cathodes.cathodes`."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    name: str
    num: int = 1
    supercell: int | tuple[int, int, int] | None = None
    n_atoms: int = 100
    ordering: OrderingMethod = "random"
    antisite_exchange: float = 0.0
    li_vacancy: float = 0.0
    li_removal: LiRemoval = "random"
    n_candidates: int = 20
    tolerance: float = 0.02
    seed: int = 42


_VERSIONS_FOR_CATHODES = node_default(versions_of("ase", "cgcnn-ase", "icet", "numpy", "pymatgen", "spglib"), Dict)


@calcfunction
def cathode(
    settings: Dict, model: CGCNNModelData | None = None, package_versions: Dict = _VERSIONS_FOR_CATHODES
) -> GeneratedSet:
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
    options = _read_options(settings.get_dict(), CathodeOptions)
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
    manifest = _manifest(options, package_versions, rows)
    return {"structures": StructureSetData.from_ase(built, ids), "manifest": Dict(manifest)}


def _manifest(options: "DataclassInstance", versions: Dict, rows: Sequence[Mapping[str, Any]]) -> dict[str, object]:
    settings = {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(options).items()}
    return {
        "settings": settings,
        "package_versions": versions.get_dict(),
        "n_structures": len(rows),
        "structures": rows,
    }


def _read_options(options: Mapping[str, Any], kind: "type[Options]", *, besides: Sequence[str] = ()) -> "Options":
    """Read the options of a settings node; names in `besides` are none of them, but may be given."""
    names = [field.name for field in fields(kind)]
    allowed = sorted([*besides, *names])
    if unknown := sorted(set(options) - set(allowed)):
        raise ValueError(f"unknown settings {', '.join(unknown)}; allowed: {', '.join(allowed)}")
    try:
        return TypeAdapter(kind).validate_python({name: options[name] for name in names if name in options})
    except ValidationError as error:
        wrong = error.errors()[0]
        name = str(wrong["loc"][0]) if wrong["loc"] else kind.__name__
        if wrong["type"] == "missing":
            raise ValueError(f"setting {name} is missing") from error
        raise ValueError(f"setting {name} cannot be {options.get(name)!r}: {wrong['msg']}") from error
