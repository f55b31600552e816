"""The blocks of a CIF's text: by gemmi, and where the text is damaged, whatever of it is whole."""

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from cgcnn_ase.structures.cif import has_atoms
from cgcnn_ase.structures.record import RefusedError

if TYPE_CHECKING:
    from gemmi import cif as gemmi_cif

# parts of tags that only some files have, and that must be looked at
_RARE = (
    *("_magn", "_atom_site_moment", "_modulation", "_wave_vector", "_ssg_", "attached_hydrogens"),
    *("_h-m_ref", "_h-m_full", "_space_group_symbol", "_symmetry_group", "_spacegroup"),
)
# what a structure is read from: damage there is never passed over
_NEEDED = re.compile(
    r"^_(cell_(length|angle)|atom_site_(?!aniso)|symmetry_equiv|space_group_symop|.*(space_group|symmetry))", re.I
)
_LISTED = re.compile(r"^_(atom_site_(fract|label|type_symbol|occupancy)|symmetry_equiv|space_group_symop)", re.I)
_OPERATION = re.compile(r"_(equiv_pos_as_xyz|operation_xyz)$", re.I)
_TOKEN = re.compile(r"""\s*(?:(#.*)|'((?:[^']|'(?=\S))*)'(?=\s|$)|"((?:[^"]|"(?=\S))*)"(?=\s|$)|(\S+))""")
_DOTTED = re.compile(
    r"(?m)^(\s*_(?:cell|atom_site|symmetry|space_group|space_group_symop|chemical_formula|symmetry_equiv))\.(?=\w)"
)
# the closing line of a text that was not closed: what follows it is no text
_NO_TEXT = re.compile(r"_\w|loop_\s*$|data_", re.I)


class Blocks(NamedTuple):
    """The blocks of a text that list atoms."""

    blocks: "list[gemmi_cif.Block]"
    rare: bool  # the text holds tags that only some files have
    notes: list[str]  # what was left out of it


class _Word(NamedTuple):
    """One word of a CIF."""

    text: str
    quoted: bool
    line: int


def blocks_with_atoms(text: str) -> Blocks:
    """The blocks of a CIF that list atoms.

    A text without any, or that is no CIF, is a `ValueError`. Damage that does not touch the structure (an unrelated
    loop cut short, a tag twice, blocks of one name, letters that are not ASCII) costs no more than itself.
    """
    import gemmi

    if not text.strip():
        raise RefusedError("is empty")
    if "\0" in text:
        raise RefusedError("is binary, not a CIF")
    lower = text.lower()
    if "_cell.length_a" in lower or "_atom_site.fract_x" in lower:
        text = _DOTTED.sub(r"\1_", text)  # the tags of mmCIF and of CIF 2's dictionaries
        lower = text.lower()
    notes: list[str] = []
    try:
        listed = [*gemmi.cif.read_string(text)]
    except (ValueError, RuntimeError) as error:
        where = re.sub(r"^string:\s*(?=\d)", "line ", str(error)).removeprefix("string:").strip()
        listed = _repaired(text, where, notes)
    blocks = [block for block in listed if has_atoms(block)]
    if not blocks:
        raise RefusedError("is a CIF without atoms")
    return Blocks(blocks, any(tag in lower for tag in _RARE), notes)


def _repaired(text: str, where: str, notes: list[str]) -> "list[gemmi_cif.Block]":
    """The blocks of a text that gemmi refuses at a place, without what is damaged."""
    import gemmi

    refusal = f"is not a CIF that can be read, or it was cut off ({where})"
    blocks: list[gemmi.cif.Block] = []
    block: gemmi.cif.Block | None = None
    words = [*_words(text.replace("\r\n", "\n").replace("\r", "\n"))]
    i = 0
    while i < len(words):
        word = words[i]
        lower = word.text.lower()
        if not word.quoted and lower.startswith("data_"):
            name = re.sub(r"[^!-~]", "_", word.text[5:]) or "x"
            block = gemmi.cif.Block(name)
            blocks.append(block)
            i += 1
        elif block is None or (not word.quoted and lower.startswith(("save_", "global_", "stop_"))):
            i += 1
        elif not word.quoted and lower == "loop_":
            i = _add_loop(block, words, i + 1, refusal, notes)
        elif not word.quoted and lower.startswith("_"):
            i = _add_pair(block, words, i, refusal, notes)
        else:
            notes.append(f"line {word.line}: {word.text[:30]!r} belongs to no tag, and is left out")
            i += 1
    if not blocks:
        raise RefusedError(refusal)
    return blocks


def _is_value(word: _Word) -> bool:
    if word.quoted:
        return True
    lower = word.text.lower()
    return not lower.startswith(("_", "data_", "save_")) and lower not in ("loop_", "stop_", "global_")


def _values_from(words: list[_Word], start: int) -> list[_Word]:
    end = start
    while end < len(words) and _is_value(words[end]):
        end += 1
    return words[start:end]


def _add_pair(block: "gemmi_cif.Block", words: list[_Word], i: int, refusal: str, notes: list[str]) -> int:
    """Add a tag and its value; values of several words without quotes are one."""
    tag = words[i]
    values = _values_from(words, i + 1)
    if not values:
        if i + 1 == len(words) and _NEEDED.search(tag.text):
            raise RefusedError(refusal)
        return i + 1
    same_line = [word for word in values if word.line == values[0].line]
    text = values[0].text if values[0].quoted else " ".join(word.text for word in same_line)
    if len(values) > len(same_line):
        notes.append(f"line {values[len(same_line)].line}: a value that belongs to no tag is left out")
    before = block.find_value(tag.text)
    if before is None:
        block.set_pair(tag.text, _quoted(text))
    elif _unquoted(before) != _ascii(text):
        if _NEEDED.search(tag.text):
            raise RefusedError(f"is not a CIF that can be read: duplicate tag {tag.text} with different values")
        notes.append(f"line {tag.line}: {tag.text} stands there twice, and the second is left out")
    else:
        notes.append(f"line {tag.line}: {tag.text} stands there twice, with one value")
    return i + 1 + len(values)


def _add_loop(block: "gemmi_cif.Block", words: list[_Word], i: int, refusal: str, notes: list[str]) -> int:
    """Add a loop that is whole; an unrelated one that is not is left out."""
    start = i
    while i < len(words) and not words[i].quoted and words[i].text.startswith("_"):
        i += 1
    tags = [word.text for word in words[start:i]]
    listed = _values_from(words, i)
    end = i + len(listed)
    if not tags:
        return end
    needed = any(_LISTED.search(tag) for tag in tags)
    values = [word.text for word in listed]
    if any(_OPERATION.search(tag) for tag in tags):
        values = _rows_of_operations(tags, listed)
    if len({tag.lower() for tag in tags}) < len(tags) or not values or len(values) % len(tags):
        if needed:
            raise RefusedError(refusal)
        notes.append(f"line {words[max(start - 1, 0)].line}: the loop of {tags[0]} is not whole, and is left out")
        return end
    if any(len(block.find_values(tag)) for tag in tags):
        if needed:
            raise RefusedError(f"is not a CIF that can be read: duplicate tag {tags[0]}, in two lists")
        notes.append(f"line {words[max(start - 1, 0)].line}: {tags[0]} stands there twice; the second is left out")
        return end
    columns = [[_quoted(text) for text in values[k :: len(tags)]] for k in range(len(tags))]
    block.init_loop("", tags).set_all_values(columns)
    return end


def _rows_of_operations(tags: list[str], listed: list[_Word]) -> list[str]:
    """The values of a loop of symmetry operations, a row a line where they have no quotes: ``x, y, z``."""
    rows: dict[int, list[str]] = {}
    for word in listed:
        rows.setdefault(word.line, []).append(word.text)
    if len(listed) == len(tags) * len(rows):
        return [word.text for word in listed]
    at = next(k for k, tag in enumerate(tags) if _OPERATION.search(tag))
    values = []
    for row in rows.values():
        extra = len(row) - len(tags)
        if extra < 0:
            return [word.text for word in listed]
        values += [*row[:at], " ".join(row[at : at + extra + 1]), *row[at + extra + 1 :]]
    return values


def _words(text: str) -> Iterator[_Word]:
    """The words of a CIF with their lines; quotes and texts that are not closed end where they must."""
    lines = text.split("\n")
    k = 0
    while k < len(lines):
        line = lines[k]
        if line.startswith(";"):
            close = next((j for j in range(k + 1, len(lines)) if lines[j].startswith(";")), None)
            if close is None:
                close = next((j for j in range(k + 1, len(lines)) if _NO_TEXT.match(lines[j])), len(lines))
                lines.insert(close, ";")
            yield _Word(" ".join([line[1:], *lines[k + 1 : close]]).strip(), True, k + 1)
            k, line = close, lines[close][1:]
        for comment, single, double, bare in _TOKEN.findall(line):
            if comment:
                break
            if bare or not (single or double):
                yield _Word(bare, not bare, k + 1)
            else:
                yield _Word(single or double, True, k + 1)
        k += 1


def _ascii(text: str) -> str:
    return text.encode("ascii", "replace").decode()


def _quoted(text: str) -> str:
    import gemmi

    quoted: str = gemmi.cif.quote(_ascii(text))
    return quoted


def _unquoted(value: str) -> str:
    import gemmi

    text: str = gemmi.cif.as_string(value)
    return text
