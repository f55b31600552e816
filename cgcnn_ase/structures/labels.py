"""Labels that ASE structures carry: numbers in their info, or results of a calculation."""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ase import Atoms

# the total energy divided by the number of atoms, eV/atom; the only label that is computed here
ENERGY_PER_ATOM = "energy_per_atom"
# where a structure carries what made its labels, in ``atoms.info``; and a key in it: False of labels whose settings are
# not converged, else left out
SCHEME, CONVERGED = "label_scheme", "converged"
NOT_CONVERGED = (
    "the energies of its labels are not converged (protocol fast): good to try things, not to compare or publish"
)


def settings_converged(atoms: "Atoms") -> bool:
    """Tell whether nothing marks the settings behind a structure's labels as not converged."""
    scheme = atoms.info.get(SCHEME)
    return not isinstance(scheme, Mapping) or scheme.get(CONVERGED) is not False


def label_of(atoms: "Atoms", target: str) -> float | None:
    """A finite label: ``energy_per_atom``, a key of the info, or else one of the results; None without one."""
    results: Mapping[str, float] = {} if atoms.calc is None else atoms.calc.results
    value = atoms.info.get(target, results.get(target))
    if target == ENERGY_PER_ATOM and target not in atoms.info:
        value = results["energy"] / len(atoms) if "energy" in results else None
    if value is None:
        return None
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise ValueError(f"its {target} is a {type(value).__name__}, not a number") from None
    if not math.isfinite(number):
        raise ValueError(f"its {target} is {number}; allowed are finite numbers")
    return number
