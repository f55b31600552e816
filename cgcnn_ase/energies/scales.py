"""Scales of energies: uncorrected PBE(+U), and the corrections of the Materials Project, older and today's.

The corrections are those of pymatgen's classes; they depend on the composition, and for oxygen and sulfur on how the
atoms are bound. A formation energy is against the elements on the same scale.
"""

import warnings
from functools import cache, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from cgcnn_ase.core.elements import HUBBARD_METALS, reference_energies
from cgcnn_ase.core.errors import unknown_name

if TYPE_CHECKING:
    from ase import Atoms
    from pymatgen.core import Composition

Scale = Literal["uncorrected", "mp-legacy", "mp2020"]
SCALES: tuple[Scale, ...] = get_args(Scale)
#: what an oxygen atom can be part of, in pymatgen's words
OxideType = Literal["oxide", "peroxide", "superoxide", "ozonide"]
#: energies of elements that the older scheme fitted to formation enthalpies, eV/atom (pymatgen's MPCompatibility.yaml)
_LEGACY_GASES = {"H": -3.23973666138, "N": -7.95247218762, "F": -1.42055013381, "Cl": -1.25385097674}
# anions whose correction needs oxidation states (pymatgen's MaterialsProject2020Compatibility)
_BY_OXIDATION_STATE = frozenset(("Br", "I", "Se", "Si", "Sb", "Te", "H", "N", "F", "Cl"))
# without one of these a compound has no correction
_CORRECTED = _BY_OXIDATION_STATE | {"O", "S"}
# what most compounds need of it, so that pymatgen's schemes, which take two seconds to load, are not asked for them:
# corrections of oxygen in an oxide, of other anions, and of the metals with +U in oxides and fluorides, eV/atom; tests
# compare
_CORRECTIONS: dict[str, dict[str, float]] = {
    "mp2020": {
        "O": -0.687, "V": -1.7, "Cr": -1.999, "Mn": -1.668, "Fe": -2.256, "Co": -1.638, "Ni": -2.541, "Mo": -3.202,
        "W": -4.438, "S": -0.503, "F": -0.462, "Cl": -0.614, "Br": -0.534, "I": -0.379, "N": -0.361, "Se": -0.472,
        "Si": 0.071, "Sb": -0.192, "Te": -0.422, "H": -0.179,
    },
    "mp-legacy": {
        "O": -0.70229, "V": -1.682, "Cr": -2.013, "Mn": -1.68085015096, "Fe": -2.733, "Co": -1.874, "Ni": -2.164,
        "Mo": -3.531, "W": -4.351, "S": -0.66346,
    },
}  # fmt: skip
# metals of which there are peroxides
_OF_PEROXIDES = frozenset(("Li", "Na", "K", "Rb", "Cs", "Be", "Mg", "Ca", "Sr", "Ba"))
# no two oxygen atoms of an oxide are nearer, Å: the bond of a peroxide is 1.49 Å long, times what the Materials Project
# counts as a bond
_NO_BOND, _BOND = 1.65, 1.1


def check_scale(scale: str) -> Scale:
    """The scale of this name; a ValueError names those that there are."""
    if scale not in SCALES:
        raise unknown_name("scale of energies", scale, SCALES)
    return scale


def scale_name(scale: str) -> str:
    """The name of a scale, one of :data:`SCALES` or ``other:LABEL``; a ValueError names those that there are."""
    if not scale.startswith("other:") or scale == "other:":
        check_scale(scale)
    return scale


def scale_of(model: object) -> str | None:
    """The scale that an energy model or a calculator states; None where it states none."""
    stated: str | None = getattr(model, "scale", None)
    return stated


def with_elements(scale: str | None) -> str | None:
    """The scale on which energies of this scale may be added to those of the elements.

    It is its own, but for uncorrected energies: these are of PBE+U in oxides and fluorides of some metals, of PBE in
    the metals themselves, and the molecule of oxygen is bound too strongly. They get today's corrections.
    """
    return "mp2020" if scale == "uncorrected" else scale


def reaction_correction(
    start: "str | Composition",
    end: "str | Composition",
    *,
    source: str,
    to: str,
    atoms: "Atoms | None" = None,
) -> float:
    """Return what an energy of ``end`` and elements less that of ``start`` gains from one scale to another, eV.

    Parameters
    ----------
    start, end
        Formulas of two cells that differ by some atoms, which are counted as elements.
    atoms
        The structure of ``start``, that says how its oxygen and sulfur are bound; in ``end`` they are bound alike.
    """
    if check_scale(source) == check_scale(to):
        return 0.0
    kinds = (None, None) if atoms is None else (_oxide_type(atoms), _sulfide_type(atoms))
    shifts = [_formation(each, to, *kinds) - _formation(each, source, *kinds) for each in (start, end)]
    return shifts[1] - shifts[0]


def correction(
    composition: "str | Composition", scale: str, *, atoms: "Atoms | None" = None, oxide_type: OxideType | None = None
) -> float:
    """Return what a scale adds to the uncorrected energy of a compound, eV for the composition as given.

    Parameters
    ----------
    composition
        Formula with its numbers of atoms, such as ``Li2Ni2O4``.
    scale : {"uncorrected", "mp-legacy", "mp2020"}
        ``uncorrected`` adds nothing; ``mp-legacy`` is pymatgen's ``MaterialsProjectCompatibility``, ``mp2020`` its
        ``MaterialsProject2020Compatibility`` (Wang et al., Sci. Rep. 11, 15496 (2021)).
    atoms
        The structure, that tells oxides from peroxides and sulfides from other compounds of sulfur.
    oxide_type
        Instead of the structure. Without both, an oxide is one unless its formula is a well-known peroxide or
        superoxide, as in pymatgen, and sulfur is corrected as a sulfide where its oxidation state is below 0.

    Raises
    ------
    ValueError
        If the scale or the formula is not known.
    """
    from pymatgen.core import Composition

    oxide: str | None = oxide_type
    sulfide = None
    if atoms is not None:
        oxide, sulfide = oxide_type or _oxide_type(atoms), _sulfide_type(atoms)
    return _correction(Composition(composition), scale, oxide, sulfide)


def _correction(whole: "Composition", scale: str, oxide: str | None, sulfide: str | None) -> float:
    check_scale(scale)
    if scale == "uncorrected" or len(whole) == 1 or not _CORRECTED & {element.symbol for element in whole.elements}:
        return 0.0
    unit, factor = whole.get_integer_formula_and_factor()
    return factor * _of_unit(unit, scale, oxide, sulfide)


def convert_formation_energy(
    value: float, composition: "str | Composition", *, source: str, to: str, oxide_type: OxideType | None = None
) -> float:
    """A formation energy, eV/atom, on another scale; errors are those of :func:`correction`."""
    if check_scale(source) == check_scale(to):
        return value
    return value + formation_shift(composition, to, oxide_type) - formation_shift(composition, source, oxide_type)


def formation_shift(composition: "str | Composition", scale: str, oxide_type: OxideType | None = None) -> float:
    """Return what a scale adds to an uncorrected formation energy, eV/atom, the elements' corrections taken off."""
    from pymatgen.core import Composition

    return _formation(composition, scale, oxide_type, None) / Composition(composition).num_atoms


def _formation(composition: "str | Composition", scale: str, oxide: str | None, sulfide: str | None) -> float:
    """Return what a scale adds to an uncorrected formation energy, eV for the composition as given."""
    from pymatgen.core import Composition

    whole = Composition(composition)
    if len(whole) == 1:
        return 0.0
    gases = element_energies("mp-legacy") if scale == "mp-legacy" else {}
    of_elements = sum(
        amount * (gases[symbol] - reference_energies()[symbol])
        for symbol, amount in whole.get_el_amt_dict().items()
        if symbol in _LEGACY_GASES and gases
    )
    return _correction(whole, scale, oxide, sulfide) - of_elements


def element_energies(scale: str) -> dict[str, float]:
    """Energies of the elements that formation energies are against, eV/atom by symbol."""
    check_scale(scale)
    return dict(reference_energies()) | (_LEGACY_GASES if scale == "mp-legacy" else {})


@lru_cache(maxsize=200_000)
def _of_unit(formula: str, scale: Scale, oxide: str | None, sulfide: str | None) -> float:
    from pymatgen.core import Composition

    composition = Composition(formula)
    amounts = composition.get_el_amt_dict()
    is_oxide = oxide == "oxide" or (oxide is None and not amounts.keys() - {"O"} <= _OF_PEROXIDES)
    if "O" not in amounts or is_oxide:
        corrected = _corrected(composition, scale, sulfide)
        return sum(n * _CORRECTIONS[scale][symbol] for symbol, n in amounts.items() if symbol in corrected)
    from pymatgen.entries.computed_entries import ComputedEntry

    data: dict[str, Any] = {} if oxide is None else {"oxide_type": oxide}
    symbols = {element.symbol for element in composition.elements}
    if not symbols & _BY_OXIDATION_STATE:
        data["oxidation_states"] = {"X": 0}  # of no anion that asks for them; guessing takes long
    if "S" in symbols:
        data["sulfide_type"] = sulfide or _sulfide_by_composition(composition)
    entry = ComputedEntry(composition, 0.0, parameters=_parameters(composition), data=data)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return float(sum(each.value for each in _scheme(scale).get_adjustments(entry)))


def _corrected(composition: "Composition", scale: Scale, sulfide: str | None) -> set[str]:
    """Elements of an oxide, or of a compound without oxygen, that a scale corrects, by pymatgen's rules.

    Anions are corrected where the guessed oxidation state is -1 or lower, or where it is none and the element is the
    most electronegative one.
    """
    present = {element.symbol for element in composition.elements}
    last = sorted(composition.elements, key=lambda element: element.X)[-1].symbol  # of equal ones the last, as there
    result = {"O"} & present
    if last in ("O", "F"):
        result |= present & set(HUBBARD_METALS)
    if "S" in present and (sulfide or _sulfide_by_composition(composition)) in ("sulfide", "polysulfide"):
        result.add("S")
    if scale == "mp2020" and present & _BY_OXIDATION_STATE:
        states = _oxidation_states(composition)
        result |= {
            anion
            for anion in present & _BY_OXIDATION_STATE
            if (state := states.get(anion, 0.0)) <= -1.0 or (state >= 0.0 and anion == last)
        }
    return result


def _oxidation_states(composition: "Composition") -> "dict[str, float]":
    """Pymatgen's first guess; empty where it has none, or the formula has too many atoms to guess for."""
    try:
        guesses = composition.oxi_state_guesses(max_sites=-20)
    except ValueError:
        return {}
    return dict(guesses[0]) if guesses else {}


@cache
def _scheme(scale: Scale) -> Any:
    from pymatgen.entries import compatibility
    from pymatgen.io.vasp.sets import MPRelaxSet

    if scale == "mp2020":
        return compatibility.MaterialsProject2020Compatibility(check_potcar=False)
    # MaterialsProjectCompatibility without its check of pseudopotentials, of which there are none, and which takes long
    file = str(Path(compatibility.MODULE_DIR) / "MPCompatibility.yaml")
    return compatibility.CorrectionsList(
        [
            compatibility.GasCorrection(file),
            compatibility.AnionCorrection(file),
            compatibility.UCorrection(file, MPRelaxSet, "Advanced"),
        ]
    )


def _parameters(composition: "Composition") -> dict[str, Any]:
    """Return what the project's settings would have been: +U for some metals in oxides and fluorides."""
    settings = _scheme("mp2020").u_settings
    last = max(composition.elements, key=lambda element: element.X).symbol
    hubbards = {e.symbol: settings[last][e.symbol] for e in composition.elements if e.symbol in settings.get(last, {})}
    return {"run_type": "GGA+U" if hubbards else "GGA", "hubbards": hubbards, "software": "none"}


def _oxide_type(atoms: "Atoms") -> str | None:
    """Pymatgen's type of an oxide; None without oxygen."""
    oxygen = atoms[atoms.numbers == 8]
    if not len(oxygen):
        return None
    from ase.neighborlist import neighbor_list
    from pymatgen.analysis.structure_analyzer import oxide_type
    from pymatgen.io.ase import AseAtomsAdaptor

    if not len(neighbor_list("i", oxygen, _NO_BOND)):
        return "oxide"
    return str(oxide_type(AseAtomsAdaptor.get_structure(atoms), _BOND))


def _sulfide_type(atoms: "Atoms") -> str | None:
    if 16 not in atoms.numbers:
        return None
    from pymatgen.analysis.structure_analyzer import sulfide_type
    from pymatgen.io.ase import AseAtomsAdaptor

    kind: str | None = sulfide_type(AseAtomsAdaptor.get_structure(atoms))  # type: ignore[no-untyped-call]
    return kind or "none"


def _sulfide_by_composition(composition: "Composition") -> str:
    """``sulfide``, or ``none`` where a guess says that sulfur gives electrons away."""
    return "none" if _oxidation_states(composition).get("S", -2.0) > 0 else "sulfide"
