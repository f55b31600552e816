"""What the pretrained detectors learn: layers, crystals and cathodes with and without a defect, no two hosts alike."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from ..data.dataset import reduced_formula
from ..data.prepared import PreparedData
from ..graphs.builder import GraphConfig
from ..targets import Level, TargetSpec
from .detection import DetectionCell, DetectionConfig, detection_cells, elements_of
from .detection_cathodes import cathode_cells
from .detection_data import prepare_cells, prepare_places, split_hosts
from .detection_hosts import NamedHost, crystals, layers

#: by split; NCM811 and LiNiO2 are what the detector is wanted for, and what it does not learn from
CATHODES = {
    "train": (
        "LiCoO2",
        "LiMnO2",
        "LiAlO2",
        "LiMn2O4",
        "NCM111",
        "NCM523",
        "LiNi0.5Mn0.5O2",
        "LiNi0.7Co0.3O2",
        "LiNi0.7Mn0.2Co0.1O2",
    ),
    "val": ("NCM622", "LiNi0.9Mn0.1O2"),
    "test": ("LiNiO2", "NCM811", "NCA"),
}
#: two kinds each for every other host, so that an epoch is short
_HALVES = (("vacancy", "antisite"), ("substitution", "interstitial"))
#: repeats of a layer without displacements, and of a crystal
_STILL, _CRYSTAL = 6, 2
#: repeats of the layers of either half with displacements. The largest of many random deviations grows with their
#: number: whoever judges whole cells must have seen large ones, and displaced cathodes; a site is judged by itself
_MOVED: dict[Level, tuple[int, int]] = {"crystal": (6, 3), "site": (3, 3)}
#: of the metals of each cathode
_ORDERINGS = 10
#: drawn from the Materials Project
_CRYSTALS = 250
#: standard deviation of the displacements, Å
RATTLE = 0.04


def prepared(data: Path, targets: Sequence[TargetSpec], graph: GraphConfig) -> PreparedData:
    """Graphs and labels of the cells, or of their sites where the target is one of sites.

    Parameters
    ----------
    data
        The folder that holds the data sets ``2dmatpedia_subset``, ``jarvis_vacancydb`` and ``mp36k``.
    targets
        One classification.
    graph
        How the network reads structures.

    Raises
    ------
    ValueError
        If there are several targets.
    """
    if len(targets) != 1:
        raise ValueError(f"the detection of defects has one target, not {len(targets)}")
    cells, split = training_cells(data, targets[0].level)
    prepare = prepare_places if targets[0].level == "site" else prepare_cells
    return replace(prepare(cells, split, graph), specs=tuple(targets))


def training_cells(data: Path, level: Level) -> tuple[list[DetectionCell], dict[str, str]]:
    """All cells for a target of this level, and the split of each host; no formula of a host is in two splits."""
    names = [name for part in CATHODES.values() for name in part]
    of_cathodes = list(cathode_cells(names, num=_ORDERINGS))
    if level == "crystal":
        of_cathodes += cathode_cells(names, num=_ORDERINGS, rattle=RATTLE, seed=_ORDERINGS)
    flat = layers(data)
    formulas = {host.formula for host in flat}
    formulas |= {reduced_formula(cell.atoms.numbers) for cell in of_cathodes if not cell.defective}
    solid = [host for host in crystals(data, number=_CRYSTALS) if host.formula not in formulas]
    split = split_hosts(flat) | split_hosts(solid)
    split |= {f"cathode:{name}": part for part, names in CATHODES.items() for name in names}
    return [*_cells(flat, solid, _MOVED[level]), *of_cathodes], split


def _cells(flat: Sequence[NamedHost], solid: Sequence[NamedHost], moved: tuple[int, int]) -> Iterator[DetectionCell]:
    dopants = elements_of(host.atoms for host in (*flat, *solid))
    for hosts, repeats, rattle, first in (
        (flat, (_STILL, _STILL), 0.0, 0),
        (flat, moved, RATTLE, 1),
        (solid, (_CRYSTAL, _CRYSTAL), RATTLE, 0),
        (solid, (_CRYSTAL, _CRYSTAL), 0.0, 1),
    ):
        for half in (0, 1):
            config = DetectionConfig(kinds=_HALVES[(half + first) % 2], supercell=repeats[half], rattle=rattle)
            yield from detection_cells([(h.name, h.atoms) for h in hosts[half::2]], config, dopants=dopants)
