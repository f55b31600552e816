"""Energies by ASE calculators, and CHGNet, a potential that stands in where DFT is too slow."""

import warnings
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from functools import cached_property
from importlib.metadata import version
from io import StringIO
from typing import TYPE_CHECKING

import numpy as np

from cgcnn_ase.core.elements import reference_energies
from cgcnn_ase.core.errors import MissingExtraError, require
from cgcnn_ase.energies.interface import Energies

if TYPE_CHECKING:
    from ase import Atoms
    from ase.calculators.calculator import BaseCalculator, Calculator
    from chgnet.model.model import CHGNet

# scale of the energies that CHGNet has learned
CHGNET_SCALE = "mp2020"
# structures that go through the network at once
_AT_ONCE = 8


class CalculatorEnergy:
    """Energies from an ASE calculator: one number a structure, without uncertainty."""

    def __init__(
        self,
        calculator: "BaseCalculator",
        references: Mapping[str, float] | None = None,
        *,
        scale: str | None = None,  # of the energies; None where it is not known
    ) -> None:
        self.calculator, self.references, self.scale = calculator, references, scale
        self.name = type(calculator).__name__

    def energies(self, structures: "Sequence[Atoms]") -> Energies:
        """Potential energies, eV a cell."""
        values = []
        for structure in structures:
            atoms = structure.copy()
            atoms.calc = self.calculator
            try:
                values.append(float(atoms.get_potential_energy()))
            except Exception:
                # a calculator that failed, such as ASE's EMT, may take the next structure for the one it failed on
                getattr(self.calculator, "reset", lambda: None)()
                raise
        return Energies(np.array(values), in_domain=(None,) * len(values))


def chgnet_calculator() -> "Calculator":
    """The pretrained CHGNet as an ASE calculator with forces, on the CPU, eV and eV/Å; `ImportError` without it."""
    return _calculator_of(_load())


def _calculator_of(model: "CHGNet") -> "Calculator":
    from chgnet.model.dynamics import CHGNetCalculator

    with redirect_stdout(StringIO()):  # it prints on which device it runs
        return CHGNetCalculator(model, use_device="cpu", on_isolated_atoms="error")


def sevennet_calculator() -> "Calculator":
    """The pretrained SevenNet-0 as an ASE calculator, on the CPU, eV and eV/Å; `ImportError` without it."""
    require("sevenn", "the interatomic potential SevenNet")
    from sevenn.calculator import SevenNetCalculator

    calculator: Calculator = SevenNetCalculator("7net-0", device="cpu")
    return calculator


def _load() -> "CHGNet":
    """The network that the wheel brings."""
    try:
        from chgnet.model.model import CHGNet
    except ImportError as error:
        raise MissingExtraError("the interatomic potential CHGNet", "chgnet") from error
    with redirect_stdout(StringIO()):  # it prints its size
        return CHGNet.load(use_device="cpu", verbose=False)


class CHGNetEnergy:
    """Energies by the pretrained CHGNet (Deng et al., Nat. Mach. Intell. 5, 1031), many cells a pass.

    ``calculator`` is the same network with forces, for a relaxation.

    It learned energies of the Materials Project with today's corrections (its formation energies of MgO, NaCl and NiO
    are those, and not those without), so ``scale`` is ``mp2020`` and the elements' energies are those of the project.
    ``name`` says what it is: it is never called DFT. Without CHGNet an `ImportError` is raised.
    """

    def __init__(self) -> None:
        self._model = _load()
        self.name = f"CHGNet {version('chgnet')} (interatomic potential)"
        self.references: Mapping[str, float] | None = reference_energies()
        self.scale = CHGNET_SCALE

    @cached_property
    def calculator(self) -> "Calculator":
        """The ASE calculator with forces."""
        return _calculator_of(self._model)

    def energies(self, structures: "Sequence[Atoms]") -> Energies:
        """Total energies, eV a cell."""
        import torch
        from pymatgen.io.ase import AseAtomsAdaptor

        cells = [AseAtomsAdaptor.get_structure(atoms) for atoms in structures]
        with torch.no_grad(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Converting a tensor")  # CHGNet's own code
            results = self._model.predict_structure(cells, task="e", batch_size=_AT_ONCE)
        rows = [results] if isinstance(results, dict) else results
        per_atom = np.array([float(row["e"]) for row in rows])
        return Energies(per_atom * [len(atoms) for atoms in structures], in_domain=(None,) * len(structures))
