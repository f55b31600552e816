"""``cgcnn.defects``: the point defects of a host as a structure set, as ``cgcnn-ase defects`` makes them."""

from dataclasses import asdict
from typing import TYPE_CHECKING, TypedDict

from aiida.engine import calcfunction
from aiida.orm import Dict, StructureData

from aiida_plugin.calculations.settings import read_settings, versions_of
from aiida_plugin.data.structures import StructureSetData
from cgcnn_ase.defects.generate import DefectOptions, generate_defects

if TYPE_CHECKING:
    from ase import Atoms

#: settings that say which host it is, and what it is called
_OF_HOST = ("name", "structure")
_PACKAGES = ("cgcnn-ase", "doped", "numpy", "pymatgen", "pymatgen-analysis-defects", "shakenbreak", "spglib")


class DefectOutputs(TypedDict):
    """What `defects` gives."""

    structures: StructureSetData
    manifest: Dict


def _versions() -> Dict:
    return Dict(versions_of(*_PACKAGES))


@calcfunction
def defects(
    host: StructureSetData | StructureData,
    settings: Dict,
    package_versions: Dict = _versions,  # type: ignore[assignment]  # AiiDA calls it for each run
) -> DefectOutputs:
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
    options = read_settings(values, DefectOptions, besides=_OF_HOST)
    name, atoms = _host(host, values.get("structure"))
    name = str(values.get("name", name))
    made = list(generate_defects(atoms, options, name=name))
    if not made:
        raise ValueError(f"{name}: the host has no such defects; other settings may find some")
    rows = [dict(defect.manifest.to_info()["defect"]) for defect in made]
    manifest = {
        "host": name,
        "settings": {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(options).items()},
        "package_versions": package_versions.get_dict(),
        "n_structures": len(rows),
        "structures": rows,
    }
    return {
        "structures": StructureSetData.from_ase((defect.atoms for defect in made), [row["id"] for row in rows]),
        "manifest": Dict(manifest),
    }


def _host(node: StructureSetData | StructureData, wanted: str | None) -> "tuple[str, Atoms]":
    """The name of the host, and the host."""
    if isinstance(node, StructureSetData):
        if wanted is None and len(node) != 1:
            few = ", ".join(node.ids[:5]) + (", ..." if len(node) > 5 else "")
            raise ValueError(f"the set holds {len(node)} structures; name the host as setting structure ({few})")
        row = 0 if wanted is None else node.row_of(wanted)
        return node.ids[row], node.atoms(row)
    if wanted is not None:
        raise ValueError(f"setting structure is {wanted!r}, but the host is one structure, no set")
    if node.is_alloy or node.has_vacancies:
        raise ValueError("the host has partially occupied sites; order it first: cgcnn-ase defects --order-disordered")
    return node.label or "host", node.get_ase()
