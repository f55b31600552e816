"""Space groups: their names in files, the settings that they can mean, the atoms that operations generate, and sites.

The names come from the tables of spglib (530 settings of International Tables A: full and short Hermann-Mauguin
symbols, Hall symbols, Schoenflies) and gemmi (some settings more). Sites that are the same by the space group of a
structure are those that spglib finds.
"""

import re
import unicodedata
from functools import cache, lru_cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from cgcnn_ase.core.arrays import Floats, Ints
from cgcnn_ase.structures.record import without_reader_warnings
from cgcnn_ase.structures.validation import completed_cell

if TYPE_CHECKING:
    from ase import Atoms
    from spglib import SpglibDataset


# fractional coordinates nearer than this are the same position (pymatgen's site_tolerance)
SITE_TOLERANCE = 1e-4
# images of one atom nearer than this, Å, may be one atom on a special position given with too few digits
MERGE = 0.1


class Setting(NamedTuple):
    """One description of a space group: its axes and its origin."""

    number: int
    name: str  # Hermann-Mauguin symbol, of a monoclinic group the full one
    choice: str  # of axes, cell or origin, as International Tables have it: ``b1``, ``cab``, ``2``, ``H``
    hall: str

    @property
    def label(self) -> str:
        """The name that means this setting only."""
        # (of number 67, two settings have one symbol: C m m a and C m m b are both C m m e)
        told = self.choice[:1] in tuple("12HR") or self.number == 67
        return f"{self.name}:{self.choice or 'abc'}" if told else self.name


class Operations(NamedTuple):
    """Symmetry operations, in fractions of the cell."""

    rotations: Floats  # (n, 3, 3)
    translations: Floats  # (n, 3)
    averaging: Floats  # (6, 6) maps a metric tensor to the mean of its images


class _Names(NamedTuple):
    specific: dict[str, list[Setting]]  # of one setting, as ``p121/n1``
    general: dict[str, list[Setting]]  # of all settings of a group, as ``p21/c``
    numbers: dict[int, list[Setting]]
    halls: dict[str, list[Setting]]


# words after a name: the origin (S and Z of ICSD: the first, that at the centre), hexagonal or rhombohedral axes
_CHOICES = {
    **dict.fromkeys(("1", "s", "o1", "origin1", "originchoice1"), "1"),
    **dict.fromkeys(("2", "z", "o2", "origin2", "originchoice2"), "2"),
    **dict.fromkeys(("h", "hr", "hexagonal", "hexagonalaxes"), "H"),
    **dict.fromkeys(("r", "rs", "rhombohedral", "rhombohedralaxes"), "R"),
    "abc": "",
}
_DASHES = dict.fromkeys((0x2010, 0x2011, 0x2012, 0x2013, 0x2014, 0x2212), "-")
_PAIRS = ((0, 0), (1, 1), (2, 2), (0, 1), (0, 2), (1, 2))


def canonical(name: str) -> str:
    """A Hermann-Mauguin symbol without what differs from program to program.

    >>> canonical("P6(3)/m m c"), canonical("P 2_1/c"), canonical("R3-c"), canonical("P2~1~/c")
    ('p63/mmc', 'p21/c', 'r-3c', 'p21/c')
    """
    text = unicodedata.normalize("NFKD", name.replace("\u00af", "-").translate(_DASHES))
    text = re.sub("(\\d)[\u0304\u0305]", r"-\1", text)
    text = re.sub(r"\\(?:bar|overline)\s*\{?\s*(\d)\s*\}?", r"-\1", text)
    text = re.sub(r"</?su[bp]>|[\s_~{}$'\"\\]", "", text).lower()
    text = re.sub(r"\((-?[1-6])\)", r"\1", text)
    return re.sub(r"(\d)-", r"-\1", text)


def canonical_hall(symbol: str) -> str:
    """A Hall symbol in small letters with single spaces, which tell ``P 3 2`` from ``P 32``."""
    return " ".join(re.sub("_", " ", symbol).lower().split())


@cache
def _names() -> _Names:
    import gemmi
    import spglib

    names = _Names({}, {}, {}, {})
    with without_reader_warnings():
        kinds = [spglib.get_spacegroup_type(hall_number) for hall_number in range(1, 531)]
    for kind in filter(None, kinds):
        choice = kind.choice.upper() if kind.choice in ("h", "r") else kind.choice
        monoclinic = 3 <= kind.number <= 15
        name = kind.international_full if monoclinic else kind.international.split("=")[0].strip()
        setting = Setting(kind.number, name.replace("_", ""), choice, kind.hall_symbol)
        spellings = [canonical(text) for text in (*kind.international.split("="), kind.international_short)]
        full = canonical(kind.international_full)
        if monoclinic:
            # the short symbol of all settings first; then those of this one: P 1 21/n 1 is P 21/n
            _add(names.general, spellings[0], setting)
            _add(names.general, spellings[-1], setting)
            for text in (full, *spellings[1:-1], canonical(re.sub(r"\b1\b(?!/)", " ", kind.international_full))):
                _add(names.specific, text, setting)
        else:
            for text in (full, *spellings):
                _add(names.specific, text, setting)
                if kind.number >= 195:  # Fm3m, Pa3: before 1992 the bar of the second symbol was left out
                    _add(names.specific, text.replace("-3", "3"), setting)
        _add(names.general, canonical(kind.schoenflies), setting)
        _add(names.halls, canonical_hall(kind.hall_symbol), setting)
        names.numbers.setdefault(kind.number, []).append(setting)
    known = set(names.halls)
    for group in gemmi.spacegroup_table():
        setting = next(iter(names.halls.get(canonical_hall(group.hall), ())), None) or Setting(
            group.number, group.hm, group.qualifier, group.hall
        )
        text = canonical(group.hm)
        if canonical_hall(group.hall) not in known:
            _add(names.specific, text, setting)
            _add(names.halls, canonical_hall(group.hall), setting)
            if 3 <= group.number <= 15:
                _add(names.general, canonical(re.sub(r"\b1\b(?!/)", " ", group.hm)), setting)
        elif text not in names.specific:
            _add(names.specific, text, setting)
    return names


def _add(table: dict[str, list[Setting]], key: str, setting: Setting) -> None:
    settings = table.setdefault(key, [])
    if setting not in settings:
        settings.append(setting)


@lru_cache(maxsize=1024)
def settings_by_name(name: str) -> tuple[Setting, ...]:
    """The settings that a Hermann-Mauguin symbol can mean, the likeliest first; none if it is not understood.

    Spaces, underscores, brackets, bars, the case of letters and what programs put behind a symbol do not matter: ``P
    2_1/c``, ``P6(3)/mmc``, ``R -3 m H``, ``F d -3 m Z``, ``Fd-3m:2``, ``P 21/c (No. 14)``. A Hall symbol or a number in
    place of the symbol is understood too.
    """
    text, number = _without_number(name)
    base, colon, choice = text.partition(":")
    if not colon:
        words = base.split()
        bracket = re.search(r"[\[(]([^()\[\]]*[a-z][^()\[\]]*)[\])]\s*$", base, re.IGNORECASE)
        if bracket:
            base, choice = base[: bracket.start()], bracket[1]
        elif len(words) > 1 and words[-1].lower() in ("s", "z", "h", "r", "hr", "rs", "o1", "o2"):
            base, choice = " ".join(words[:-1]), words[-1]
    settings = _chosen(base, choice)
    if not settings and (schoenflies := re.fullmatch(r"([CDSTO]\d?[vhdis]?)[._^-]+(\d+)", name.strip(), re.IGNORECASE)):
        settings = tuple(_names().general.get(f"{schoenflies[1]}^{schoenflies[2]}".lower(), ()))
    if not settings and not choice and canonical(base)[-1:] in tuple("szhr"):
        settings = _chosen(canonical(base)[:-1], base.strip()[-1])
    if not settings and not choice and re.match(r"\s*(-|[a-z]\b.*[a-z])", base, re.IGNORECASE):
        settings = settings_by_hall(name)
    return tuple(setting for setting in settings if number in (None, setting.number))


def _without_number(name: str) -> tuple[str, int | None]:
    """A name without the number that some write behind it, ``P 21/c (14)``, ``P 21/c (No. 14)`` or ``P 21/c #14``."""
    match = re.search(r"[\s(\[]+(?:no\.?|nr\.?|number|#)\s*(\d{1,3})[)\]]*\s*$|\((\d{2,3})\)\s*$", name, re.IGNORECASE)
    return (name, None) if match is None else (name[: match.start()], int(match[1] or match[2]))


def _chosen(base: str, choice: str) -> tuple[Setting, ...]:
    names, text = _names(), canonical(base)
    choice = re.sub(r"[\s_.]", "", choice).lower()
    if text.isdigit():
        settings = list(settings_by_number(int(text)))
    else:
        if text.startswith("h") and not text.startswith("hall"):  # the hexagonal cell in the Protein Data Bank: H 3
            text, choice = "r" + text[1:], choice or "h"
        settings = [*names.specific.get(text, ())]
        settings += [setting for setting in names.general.get(text, ()) if setting not in settings]
        if settings and not _same_words(base, settings[0].name):
            return ()
        if not settings:
            settings = _by_gemmi(text)
    if not choice:
        return tuple(settings)
    wanted = _CHOICES.get(choice, choice)
    fitting = [s for s in settings if s.choice == wanted or (wanted in ("1", "2") and s.choice.startswith(wanted))]
    if not fitting and wanted in ("1", "2") and not any(s.choice[:1] in ("1", "2") for s in settings):
        return tuple(settings)  # a group with one origin only
    others = [setting for s in settings[:1] for setting in settings_by_number(s.number)]
    return tuple(
        fitting
        or [s for s in settings if s.choice.lstrip("-").rstrip("0123456789") == wanted]
        or [s for s in others if s.choice.lower() == wanted.lower()]
    )


def _same_words(base: str, name: str) -> bool:
    """Compare symbols of digits where they are written with spaces: ``P 3 2`` is no ``P 32``."""
    words = re.sub(r"[_()]", "", base).lower().split()
    spaced = len(words) > 2 or (len(words) == 2 and len(words[1]) < 3)
    return not spaced or not all(word.isdigit() for word in words[1:]) or words == name.lower().split()


def _by_gemmi(text: str) -> list[Setting]:
    """Symbols with the glide plane e, and others that gemmi alone knows."""
    import gemmi

    if not text[:1].isalpha():
        return []
    group: gemmi.SpaceGroup | None = gemmi.find_spacegroup_by_name(text)
    if group is None and "e" in text[1:]:  # 2/m 2/m 21/e: either glide plane that e stands for
        for letter in "abc":
            if settings := _names().specific.get(text[0] + text[1:].replace("e", letter)):
                return settings
    return [] if group is None else [*_names().halls.get(canonical_hall(group.hall), ())]


def settings_by_number(number: int) -> tuple[Setting, ...]:
    """All settings of a space group, the standard one first; none where there is no such number."""
    return tuple(_names().numbers.get(number, ()))


@lru_cache(maxsize=256)
def settings_by_hall(symbol: str) -> tuple[Setting, ...]:
    """The setting of a Hall symbol; none if it is not understood."""
    import gemmi

    settings = _names().halls.get(canonical_hall(symbol))
    if settings:
        return tuple(settings)
    try:
        group = gemmi.symops_from_hall(symbol.replace("_", " "))
        number: gemmi.SpaceGroup | None = gemmi.find_spacegroup_by_ops(group)
    except (RuntimeError, ValueError):
        return ()
    return () if number is None else (Setting(number.number, number.xhm(), "", symbol.replace("_", " ")),)


@lru_cache(maxsize=256)
def operations(setting: Setting) -> Operations:
    """The symmetry operations of a setting."""
    import gemmi

    listed = list(gemmi.symops_from_hall(setting.hall))
    den = listed[0].DEN
    rotations = np.array([op.rot for op in listed], dtype=np.float64) / den
    return with_averaging(rotations, np.array([op.tran for op in listed], dtype=np.float64) / den)


def with_averaging(rotations: Floats, translations: Floats) -> Operations:
    """Operations, and what tells at once whether they leave a metric tensor unchanged."""
    basis = np.zeros((6, 3, 3))
    for k, (i, j) in enumerate(_PAIRS):
        basis[k, i, j] = basis[k, j, i] = 1.0
    distinct = np.unique(rotations, axis=0)
    mean = np.einsum("oji,kjl,olm->kim", distinct, basis, distinct) / len(distinct)
    return Operations(rotations, translations, np.array([[mean[k][pair] for k in range(6)] for pair in _PAIRS]))


def metric_change(operations: Operations, matrix: Floats) -> float:
    """How much the operations change the metric tensor of a cell, as a fraction of its squared lengths; 0 if they fit.

    The cell is (3, 3), rows.
    """
    metric = matrix @ matrix.T
    (aa, ab, ac), (_, bb, bc), (_, _, cc) = metric.tolist()
    change = operations.averaging @ (aa, bb, cc, ab, ac, bc)
    scale = (aa, bb, cc, (aa * bb) ** 0.5, (aa * cc) ** 0.5, (bb * cc) ** 0.5)
    differences = zip(change.tolist(), (aa, bb, cc, ab, ac, bc), scale, strict=True)
    return float(max(abs(new - old) / size for new, old, size in differences))


def transformed(operations: Operations, matrix: Floats) -> Operations | None:
    """The operations in another basis, whose vectors are the columns of `matrix` in terms of the old ones.

    None where they do not map that lattice onto itself. A larger cell has centring translations more.
    """
    inverse = np.linalg.inv(matrix)
    rotations = inverse @ operations.rotations @ matrix
    if np.linalg.det(matrix) < 1.5 and np.abs(rotations - np.rint(rotations)).max() > 1e-6:
        return None
    corners = np.stack(np.meshgrid(*[np.arange(-3, 4)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    shifts = corners @ inverse.T
    shifts = np.unique(np.round(shifts - np.floor(shifts + 1e-9), 9) % 1.0, axis=0)
    translations = operations.translations @ inverse.T
    all_rotations = np.repeat(rotations, len(shifts), axis=0)
    all_translations = (translations[:, None] + shifts[None]).reshape(-1, 3)
    all_translations -= np.floor(all_translations + 1e-9)
    rows = np.round(np.hstack([all_rotations.reshape(-1, 9), all_translations]), 6)
    _, first = np.unique(rows, axis=0, return_index=True)
    first.sort()
    return with_averaging(all_rotations[first], all_translations[first])


def expand(frac: Floats, rotations: Floats, translations: Floats) -> tuple[Floats, Ints]:
    """All images of each site, equal ones once; and the site each belongs to."""
    images = np.einsum("oij,nj->noi", rotations, frac) + translations  # (sites, operations, 3)
    images -= np.floor(images)
    n_ops = len(rotations)
    to_first = images - images[:, :1]
    to_first -= np.rint(to_first)
    # a site on a special position is mapped onto itself; the factor covers what a rotation does to the tolerance
    special = (np.abs(to_first) < 4 * SITE_TOLERANCE).all(axis=2).sum(axis=1) > 1
    keep = np.ones(images.shape[:2], dtype=bool)
    for site in np.flatnonzero(special):
        site_images = images[site]
        delta = site_images[:, None] - site_images[None]
        delta -= np.rint(delta)
        same = (np.abs(delta) < SITE_TOLERANCE).all(axis=2)
        keep[site] = same.argmax(axis=1) == np.arange(n_ops)
    return images[keep], np.nonzero(keep)[0]


def merge_near(frac: Floats, rotations: Floats, translations: Floats, matrix: Floats) -> tuple[Floats, Ints]:
    """As `expand`, but images of one site within `MERGE` become one atom at their mean: coordinates of few digits."""
    positions, owners = [], []
    for site, site_frac in enumerate(frac):
        images = rotations @ site_frac + translations
        left = np.ones(len(images), dtype=bool)
        for i in range(len(images)):
            if not left[i]:
                continue
            delta = images - images[i]
            delta -= np.rint(delta)
            near = left & (np.linalg.norm(delta @ matrix, axis=1) < MERGE)
            positions.append(images[i] + delta[near].mean(axis=0))
            owners.append(site)
            left &= ~near
    return np.array(positions), np.array(owners, dtype=np.int64)


# tolerance on positions, Å, and on angles, degrees: those of pymatgen's space-group analysis
SYMPREC, ANGLE = 0.01, 5.0


class DistinctSites(NamedTuple):
    """One site of each set of symmetry-equivalent ones, in the order of the structure."""

    representatives: Ints  # (D,) index of the first site of each set
    multiplicities: Ints  # (D,) sites in each set; their sum is the number of atoms


def distinct_sites(atoms: "Atoms", *, symprec: float = SYMPREC) -> DistinctSites:
    """The symmetry-distinct sites of a structure; equivalent ones may be up to `symprec` Å from their ideal places.

    Directions that are not periodic count as cell vectors long enough to keep the images apart. A structure without
    space group is a `ValueError`.
    """
    cell = completed_cell(atoms.cell.array, atoms.pbc)
    fractions = np.linalg.solve(cell.T, atoms.positions.T).T
    dataset = symmetry_dataset(cell, fractions, atoms.numbers, symprec=symprec)
    first, counts = np.unique(orbits(dataset), return_counts=True)
    return DistinctSites(first, counts)


def orbits(dataset: "SpglibDataset") -> Ints:
    """Index of the first site, (N,), that is equivalent to each by the space group of the crystal.

    Spglib's ``equivalent_atoms`` are equal by the operations of the cell that was given. A supercell whose
    shape breaks the symmetry of its crystal has fewer of them, and its equivalent sites would count several times.
    """
    _, first, inverse = np.unique(dataset.crystallographic_orbits, return_index=True, return_inverse=True)
    indices: Ints = first[inverse]
    return indices


def symmetry_dataset(cell: Floats, fractions: Floats, numbers: Ints, *, symprec: float = SYMPREC) -> "SpglibDataset":
    """The symmetry of a periodic structure that spglib finds (Togo, Shinohara and Tanaka, STAM-M 4, 2384822).

    The cell is (3, 3) Å, rows, the fractional coordinates are (N, 3). A structure without space group is a
    `ValueError`.
    """
    import spglib
    from spglib.error import SpglibError

    none = f"no space group is found at a tolerance of {symprec:g} Å; are two atoms on one site?"
    structure = (cell.tolist(), fractions.tolist(), numbers.tolist())
    try:
        dataset = spglib.get_symmetry_dataset(structure, symprec=symprec, angle_tolerance=ANGLE)
    except SpglibError as error:  # newer versions raise, or will
        raise ValueError(f"{none} {error}") from error
    if dataset is None:
        raise ValueError(none)
    return dataset
