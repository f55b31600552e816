"""An oracle: a parabola in x."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from cgcnn_ase.optimization.oracles import Evaluation, OracleError

if TYPE_CHECKING:
    from ase import Atoms

    from cgcnn_ase.optimization.space.variables import Point


class Parabola:
    """Evaluate (x - center)^2; files that its options name would be looked for in `folder`."""

    name = "parabola"
    references = None  # energies of the elements (eV/atom), if `energy` is among the values

    def __init__(self, options: Mapping[str, object], *, folder: Path) -> None:
        if unknown := sorted(set(options) - {"center"}):
            raise ValueError(f"unknown setting {unknown[0]} of the oracle parabola; allowed: center")
        self.center = float(str(options.get("center", 0.5)))

    def describe(self) -> dict[str, object]:
        """Return what decides the values."""
        return {"name": self.name, "what": f"a parabola about {self.center}", "version": "1.0"}

    def evaluate(self, point: "Point", atoms: "Atoms | None") -> Evaluation:
        """Return the value of one point."""
        x = float(point["x"])
        if x < 0:
            raise OracleError("x must not be negative")
        return Evaluation({"value": (x - self.center) ** 2}, stds={"value": 0.01})
