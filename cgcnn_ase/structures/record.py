"""One structure read from somewhere, or the reason why there is none; structure files by name, their text, labels."""

import gzip
import math
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from ase import Atoms


# suffixes by what reads them; a trailing ``.gz`` is allowed for the first three and JSON
CIF_SUFFIXES = (".cif", ".mcif")
VASP_SUFFIXES = (".vasp", ".poscar", ".contcar")
XYZ_SUFFIXES = (".extxyz", ".xyz")
SHELX_SUFFIXES = (".res",)
# suffix -> the name of the format in ASE
ASE_FORMATS = {
    ".traj": "traj",
    ".gen": "gen",
    ".xsf": "xsf",
    ".in": "espresso-in",
    ".pwi": "espresso-in",
}
# the suffix of packed files
PACKED_SUFFIX = ".npz"
SUFFIXES = (*CIF_SUFFIXES, *VASP_SUFFIXES, *XYZ_SUFFIXES, *SHELX_SUFFIXES, ".db", ".json", PACKED_SUFFIX, *ASE_FORMATS)
# files of these names are VASP's, whatever their suffix
VASP_NAMES = ("POSCAR", "CONTCAR")
# ... and so are those that have them as a word, unless their suffix is one of these
_VASP_WORD = re.compile(r"(?:^|[^A-Za-z])(?:POSCAR|CONTCAR)(?:[^A-Za-z]|$)")
_OTHER_SUFFIXES = (
    ".txt",
    ".log",
    ".out",
    ".py",
    ".sh",
    ".md",
    ".csv",
    ".png",
    ".pdf",
    ".svg",
    ".yaml",
    ".yml",
    ".toml",
)
# suffixes of other programs' structures: in a folder they are named as left out
FOREIGN_SUFFIXES = (
    ".pdb",
    ".cell",
    ".xsd",
    ".xtl",
    ".cssr",
    ".fdf",
    ".ins",
    ".mol",
    ".mol2",
    ".sdf",
    ".xtd",
    ".struct",
)


def allowed() -> str:
    """The file names that are read, in words."""
    return f"{', '.join(SUFFIXES)} (also .cif.gz, .vasp.gz, .xyz.gz, .json.gz) and *POSCAR*, *CONTCAR*"


def suffix_of(name: str) -> str:
    """The known suffix of a file name in lower case (``.vasp`` for POSCAR and CONTCAR); empty if it is not known.

    >>> suffix_of("LiNiO2.CIF"), suffix_of("NiO_POSCAR"), suffix_of("a.cif.gz"), suffix_of("notes.txt")
    ('.cif', '.vasp', '.cif', '')
    """
    lower = name.lower()
    packed = lower.endswith(".gz")
    if packed:
        lower = lower[:-3]
    dot = lower.rfind(".")
    suffix = lower[dot:] if dot > 0 else ""
    if suffix in SUFFIXES and not (packed and (suffix in ASE_FORMATS or suffix in (".db", PACKED_SUFFIX))):
        return suffix
    return ".vasp" if name.startswith(VASP_NAMES) or _has_vasp_word(name) else ""


def _has_vasp_word(name: str) -> bool:
    """Say whether a name such as ``NiO_POSCAR`` or ``03-CONTCAR.relaxed`` is that of a file of VASP."""
    return "CAR" in name and _VASP_WORD.search(name) is not None and not name.lower().endswith(_OTHER_SUFFIXES)


def structure_id(path: str | Path) -> str:
    """The name of the structure in a file: its stem. A bare POSCAR or CONTCAR is told apart by its folder.

    >>> structure_id("hosts/LiNiO2.cif"), structure_id("LiNiO2/CONTCAR"), structure_id("POSCAR")
    ('LiNiO2', 'LiNiO2_CONTCAR', 'POSCAR')
    """
    if isinstance(path, str):
        path = Path(path)
    name = path.name
    if name[-3:].lower() == ".gz":
        name = name[:-3]
    if (name.startswith(VASP_NAMES) and not name.lower().endswith(VASP_SUFFIXES)) or (
        "CAR" in name and not name.lower().endswith(SUFFIXES) and _has_vasp_word(name)
    ):
        folder = path.parent.name
        return f"{folder}_{name}" if name in VASP_NAMES and folder else name
    return name.rpartition(".")[0] or name


class StructureError(ValueError):
    """A structure that cannot be used: the file, or what else it came from, and what is wrong with it, in words."""

    def __init__(self, source: str, reason: str) -> None:
        super().__init__(source, reason)
        self.source = source
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.source}: {self.reason}"


class RefusedError(ValueError):
    """Why a structure is refused, in this package's own words (a foreign reader's error is a plain `ValueError`)."""


class StructureRecord(NamedTuple):
    """One structure, or the reason there is none.

    The id is unique: the file's stem; ``stem:0``, ``stem:1`` where a file holds several; ``stem:7`` for row 7 of an ASE
    database; its own in a packed ``.npz``; the position (or the key of the dict) for objects in memory.
    """

    id: str
    source: str  # the file, or ``<memory>``
    atoms: "Atoms | None"
    error: str | None  # one line that says why there is no structure; it does not repeat the source

    def unwrap(self) -> "Atoms":
        """The structure; the error of a record without one is raised as `StructureError`."""
        if self.atoms is None:
            raise StructureError(self.source, self.error or "holds no structure")
        return self.atoms


def one_line(text: object, *, limit: int = 300) -> str:
    """Words of a foreign error on one line, shortened to `limit` characters.

    >>> one_line(" no   atoms ")
    'no atoms'
    """
    words = " ".join(str(text).split())
    return words if len(words) <= limit else words[: limit - 3] + "..."


@contextmanager
def without_reader_warnings() -> Iterator[None]:
    """Silence what the readers say about repairs they made: what matters of it is checked afterwards."""
    with warnings.catch_warnings():
        for module in ("pymatgen", "ase", "spglib"):
            warnings.filterwarnings("ignore", module=rf"{module}(\.|$)")
        warnings.filterwarnings("ignore", message="Issues encountered while parsing CIF")
        warnings.filterwarnings("ignore", message="No Pauling electronegativity")
        warnings.filterwarnings("ignore", message="No structure parsed for section")
        yield


def text_of(source: str) -> str:
    """The whole text of a file, unpacked."""
    data = gzip.decompress(Path(source).read_bytes()) if is_zipped(source) else Path(source).read_bytes()
    encoding = "utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else _utf16(data[:400])
    if encoding:
        try:
            return data.decode(encoding)
        except UnicodeDecodeError:
            raise RefusedError("is binary, not text") from None
    refuse_no_text(data)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        control = sum(byte < 32 and byte not in b"\t\n\r\f" for byte in data[:4096])
        if control > 8:
            raise RefusedError("is binary, not text") from None
        return data.decode("latin-1")  # old files have accents in names of authors


def _utf16(head: bytes) -> str | None:
    """The encoding of text that has a zero in every second byte and in no other."""
    for start, encoding in ((1, "utf-16-le"), (0, "utf-16-be")):
        zeros, others = head[start::2], head[1 - start :: 2]
        if len(zeros) > 8 and zeros.count(0) > 0.9 * len(zeros) and not others.count(0):
            return encoding
    return None


def refuse_no_text(data: bytes) -> None:
    """Raise `RefusedError` where the bytes of a file are no text."""
    if not data.strip():
        raise RefusedError("is empty")
    if b"\0" in data:
        raise RefusedError("is binary, not text")


def is_zipped(source: str) -> bool:
    """Say whether a file is packed by gzip, by its name."""
    return source.lower().endswith(".gz")


def head_of(source: str) -> bytes:
    """The first bytes of a file, unpacked, if there are any."""
    with gzip.open(source, "rb") if is_zipped(source) else Path(source).open("rb") as file:
        head = file.read(4096)
    if not head:
        raise RefusedError("is empty")
    return head


# the total energy divided by the number of atoms, eV/atom; the only label that is computed here
ENERGY_PER_ATOM = "energy_per_atom"
# where a structure carries what made its labels, in ``atoms.info``; and a key in it: False of labels whose settings are
# not converged, else left out
SCHEME, CONVERGED = "label_scheme", "converged"
NOT_CONVERGED = (
    "the energies of its labels are not converged (protocol fast): good to try things, not to compare or publish"
)
# of the std of a model that learned from such labels, whose held-out labels are of the same kind
NOT_CONVERGED_STD = (
    "Its std is against labels of that kind, and does not count how far these are from converged ones; calibrated on "
    "some converged labels (`cgcnn-ase calibrate`) it does"
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
