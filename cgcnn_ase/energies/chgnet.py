"""Energies by CHGNet, an interatomic potential that stands in where DFT is too slow."""

import warnings
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from importlib.metadata import version
from io import StringIO
from typing import TYPE_CHECKING

import numpy as np

from cgcnn_ase.core.elements import reference_energies
from cgcnn_ase.energies.ensemble_energy import Energies

if TYPE_CHECKING:
    from ase import Atoms
    from ase.calculators.calculator import Calculator
    from chgnet.model.model import CHGNet

#: structures that go through the network at once
_AT_ONCE = 8


def chgnet_calculator() -> "Calculator":
    """The pretrained CHGNet as an ASE calculator with forces, on the CPU; eV, eV/Å.

    Raises
    ------
    ImportError
        If CHGNet is not installed.
    """
    model = _load()
    from chgnet.model.dynamics import CHGNetCalculator

    with redirect_stdout(StringIO()):  # it prints on which device it runs
        return CHGNetCalculator(model, use_device="cpu", on_isolated_atoms="error")


def _load() -> "CHGNet":
    """The network that the wheel brings."""
    try:
        from chgnet.model.model import CHGNet
    except ImportError as error:
        raise ImportError('CHGNet is not installed: pip install "cgcnn-ase[chgnet]"') from error
    with redirect_stdout(StringIO()):  # it prints its size
        return CHGNet.load(use_device="cpu", verbose=False)


class CHGNetEnergy:
    """Energies by the pretrained CHGNet (Deng et al., Nat. Mach. Intell. 5, 1031), without forces: many cells a pass.

    It learned PBE and PBE+U energies of the Materials Project, so the elements' energies are those of the project.
    ``name`` says what it is: it is never called DFT.

    Raises
    ------
    ImportError
        If CHGNet is not installed.
    """

    def __init__(self) -> None:
        self._model = _load()
        self.name = f"CHGNet {version('chgnet')} (interatomic potential)"
        self.references: Mapping[str, float] | None = reference_energies()

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
