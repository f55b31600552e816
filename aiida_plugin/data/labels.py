"""Labels of structures, and what made them, so that labels of different kinds never mix silently.

A label scheme is a plain dict in ``atoms.info["label_scheme"]``: ``engine``, ``engine_version``, ``functional``,
``hubbard_u`` (eV by element), ``pseudopotentials`` (name or hash by element), ``cutoffs`` (eV by name),
``kpoints_distance`` (1/Å), ``spin``, ``relaxed``, and what else an engine needs to say; and ``converged``, which is
False where the settings of the run are to try things and not to compare energies (protocol fast).
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Literal, TypeAlias

from cgcnn_ase.structures.record import CONVERGED as CONVERGED
from cgcnn_ase.structures.record import ENERGY_PER_ATOM as ENERGY_PER_ATOM
from cgcnn_ase.structures.record import NOT_CONVERGED as NOT_CONVERGED
from cgcnn_ase.structures.record import SCHEME as SCHEME
from cgcnn_ase.structures.record import label_of

if TYPE_CHECKING:
    from ase import Atoms

    from aiida_plugin.data.structures import StructureSetData

Scheme: TypeAlias = Mapping[str, object]  # what made a label, by key
LabelKind = Literal["DFT", "machine-learned", "empirical", "unknown"]
# units of the labels that this package writes
LABEL_UNITS = {ENERGY_PER_ATOM: "eV/atom", "formation_energy_per_atom": "eV/atom"}
NAMED = 5  # ids that a message names
_DIGITS = 12  # hex digits that name a scheme
# what depends on the elements at hand: two structures of one scheme may lack an element, not differ in one
_BY_ELEMENT = ("hubbard_u", "pseudopotentials")
_FIRST = ("engine", "functional")  # what says most about a difference, and is named first
_NOT_STATED = ("", "None", "unknown", "not stated")  # functionals of labels that name none
# packages of machine-learned potentials, by what the name of a calculator or of its module begins with
_MACHINE_LEARNED = (
    "aimnet", "alignn", "calorine", "cgcnn_ase", "chgnet", "deepmd", "fairchem", "flare", "grace", "m3gnet",
    "mace", "matgl", "mattersim", "metatensor", "metatomic", "nequip", "orb_models", "pet_mad", "pyace", "quippy",
    "schnetpack", "sevenn", "tensorpotential", "torch_sim", "torchani", "upet",
)  # fmt: skip
# calculators that are force fields, tight binding or corrections; the first row to "tip4p" are names that ASE knows
_EMPIRICAL = frozenset((
    "ace", "acemolecule", "acn", "amber", "asap", "combine_mm", "counterions", "demonnano", "dftb", "dftd3", "eam",
    "emt", "ff", "gromacs", "gulp", "harmonic", "hotbit", "idealgas", "kim", "lammps", "lammpslib", "lammpsrun", "lj",
    "mopac", "morse", "plumed", "qmmm", "test", "tip3p", "tip4p",
    "asap3", "dftbplus", "dftd4", "openkim", "tblite", "xtb",
))  # fmt: skip


def named_label(atoms: "Atoms", target: str, what: str) -> float | None:
    """As `label_of`, with the name of the structure in the error."""
    try:
        return label_of(atoms, target)
    except ValueError as error:
        raise ValueError(f"{what}: {error}") from error


def labels_of(structures: "StructureSetData", target: str) -> Iterator[float | None]:
    """The label of each structure in order, None where it has none; raises as `label_of`, naming the structure."""
    for name, atoms in zip(structures.ids, structures.iter_atoms(), strict=True):
        yield named_label(atoms, target, f"structure {name!r}")


def listed(names: list[str]) -> str:
    """The first few names."""
    return ", ".join(names[:NAMED]) + (f" and {len(names) - NAMED} more" if len(names) > NAMED else "")


def scheme_of(atoms: "Atoms") -> dict[str, object] | None:
    """The scheme that a structure carries, None if it carries none."""
    scheme = atoms.info.get(SCHEME)
    return dict(scheme) if isinstance(scheme, Mapping) else None


def is_converged(scheme: Scheme | None) -> bool:
    """Tell whether nothing marks labels of this scheme as not converged."""
    return scheme is None or scheme.get(CONVERGED) is not False


def scheme_id(scheme: Scheme) -> str:
    """Twelve hex digits of the sha256 of a scheme, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(scheme, sort_keys=True).encode()).hexdigest()[:_DIGITS]


def method_without_functional(calculator: str) -> LabelKind | None:
    """Tell of an ASE calculator that has no functional what it is; None of one that may have one.

    `calculator` is a name that ASE knows, or ``module:Class``.
    """
    module = calculator.partition(":")[0]
    name = module.removeprefix("ase.calculators.").partition(".")[0].lower()
    if name in _EMPIRICAL:
        return "empirical"
    return "machine-learned" if name.startswith(_MACHINE_LEARNED) else None


def functional_of(calculator: str, parameters: Mapping[str, object], stated: str | None = None) -> str:
    """Name the functional of an ASE calculator; of one that has none, what it is.

    That is ``stated`` by the user, or ``xc`` of the parameters; ``unknown`` where neither tells.
    """
    if (method := method_without_functional(calculator)) is not None:
        return method
    xc = parameters.get("xc", "LDA" if calculator == "gpaw" else "unknown")
    return stated or str(xc["name"] if isinstance(xc, Mapping) else xc)


def kind_of(scheme: Scheme | None) -> LabelKind:
    """Tell what kind of method made a label, by its scheme: by the engine first, then by the functional.

    A label whose scheme names no functional, or that has no scheme, is of unknown kind: nothing says that it is DFT.
    """
    if scheme is None:
        return "unknown"
    functional = str(scheme.get("functional"))
    method = method_without_functional(str(scheme.get("engine")))
    if method is not None or functional in ("machine-learned", "empirical"):
        return method or ("empirical" if functional == "empirical" else "machine-learned")
    return "unknown" if functional in _NOT_STATED else "DFT"


def merge_schemes(schemes: Iterable[Scheme | None]) -> dict[str, object] | None:
    """The one scheme that all of these are; of structures with different elements, with all their elements.

    None stands for a label that nothing is known of, and agrees with itself only. A ValueError says in what two differ.
    """
    merged: dict[str, object] | None = None
    for k, scheme in enumerate(schemes):
        if k == 0:
            merged = None if scheme is None else dict(scheme)
            continue
        if (scheme is None) != (merged is None):
            raise ValueError("some labels say what made them and others do not; labels of one kind only can be mixed")
        if scheme is not None and merged is not None:
            merged = _merge(merged, scheme)
    return merged


def only_scheme(structures: "StructureSetData | Iterable[Atoms]") -> dict[str, object] | None:
    """The one scheme of all labels of a set; raises as `merge_schemes`."""
    from aiida_plugin.data.structures import StructureSetData

    atoms: Iterable[Atoms] = structures.iter_atoms() if isinstance(structures, StructureSetData) else structures
    return merge_schemes(scheme_of(each) for each in atoms)


def _merge(one: dict[str, object], other: Scheme) -> dict[str, object]:
    merged = dict(one)
    if not (is_converged(one) and is_converged(other)):
        merged[CONVERGED] = False
    for key in sorted({*one, *other} - {CONVERGED}, key=lambda name: (name not in _FIRST, name)):
        a, b = one.get(key), other.get(key)
        if key in _BY_ELEMENT and isinstance(a, Mapping) and isinstance(b, Mapping):
            for element in sorted({*a} & {*b}):
                if a[element] != b[element]:
                    raise ValueError(_differ(f"{key} of {element}", a[element], b[element]))
            merged[key] = {**a, **b}
        elif a != b:
            raise ValueError(_differ(key, a, b))
    return merged


def _differ(what: str, one: object, other: object) -> str:
    return f"labels of different kinds are mixed: {what} is {one} for some and {other} for others"


def largest_group(schemes: Mapping[str, Scheme | None]) -> tuple[list[str], dict[str, str]]:
    """The names of the most labels that are of one kind, and of each other one in what it differs from them."""
    groups: list[tuple[list[str], dict[str, object] | None]] = []
    for name, scheme in schemes.items():
        for k, (members, merged) in enumerate(groups):
            if scheme_difference(merged, scheme) is None:
                groups[k] = ([*members, name], merge_schemes([merged, scheme]))
                break
        else:
            groups.append(([name], merge_schemes([scheme])))
    if not groups:
        return [], {}
    alike, merged = max(groups, key=lambda group: len(group[0]))
    others = [name for members, _ in groups for name in members if name not in alike]
    return alike, {name: str(scheme_difference(merged, schemes[name])) for name in others}


def scheme_difference(one: Scheme | None, other: Scheme | None) -> str | None:
    """In what two schemes differ; None if they do not."""
    try:
        merge_schemes([one, other])
    except ValueError as error:
        return str(error)
    return None
