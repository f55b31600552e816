"""Draw the house: which room imports which, read from the syntax trees, as a picture and a table in the docs.

    python scripts/draw_architecture.py            write docs/images/architecture.svg and the tables of the page
    python scripts/draw_architecture.py --check    only look: exit code 1 if they are out of date, or there is a circle

A room is a subpackage of ``cgcnn_ase`` or ``aiida_plugin``, or a module that stands loose at the top of one. Every
import counts: those inside functions and under TYPE_CHECKING too, and modules that a string names for a later import.
A room stands one floor above the highest room that it imports. Nothing is imported to find this out, only read.
"""

import argparse
import ast
import re
import sys
from collections.abc import Iterator
from html import escape
from pathlib import Path
from textwrap import wrap

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("cgcnn_ase", "aiida_plugin")  # from the ground up
PAGE = ROOT / "docs" / "development" / "architecture.md"
PICTURE = ROOT / "docs" / "images" / "architecture.svg"
MODULE = rf"({'|'.join(PACKAGES)})(\.\w+)+(:\w+)?"  # a string that names one
MARKS = "<!-- rooms: written by scripts/draw_architecture.py -->", "<!-- end of rooms -->"

Edges = dict[str, set[str]]

# ------------------------------------------------------------------------------------------------ reading the imports


def read_modules(root: Path) -> dict[str, Path]:
    """Map each module of the two packages, by its dotted name, to its file."""
    modules = {}
    for package in PACKAGES:
        for file in sorted((root / package).rglob("*.py")):
            parts = file.relative_to(root).with_suffix("").parts
            modules[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file
    return modules


def room_of(module: str) -> str | None:
    """Name the room of a module; the front door of a package (its ``__init__.py``) belongs to no room."""
    parts = module.split(".")
    return ".".join(parts[:2]) if len(parts) > 1 else None


def imported_modules(module: str, file: Path, modules: dict[str, Path]) -> Iterator[tuple[str, int]]:
    """Yield each module of the house that a file imports, and the line.

    Names that a package's front door hands on are followed to where they come from.
    """
    tree = ast.parse(file.read_text(encoding="utf-8"), str(file))
    inside = module if file.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield from _known(alias.name, modules, node.lineno)
        elif isinstance(node, ast.ImportFrom):
            base = inside.rsplit(".", node.level - 1)[0] if node.level > 1 else inside
            source = ".".join(filter(None, [base, node.module])) if node.level else node.module or ""
            for alias in node.names:
                name = f"{source}.{alias.name}"
                if name not in modules and source in PACKAGES:
                    name = front_door(source, modules).get(alias.name, source)
                yield from _known(name, modules, node.lineno)
        elif isinstance(node, ast.Constant) and re.fullmatch(MODULE, str(node.value)):
            yield from _known(node.value.partition(":")[0], modules, node.lineno)


def _known(name: str, modules: dict[str, Path], line: int) -> Iterator[tuple[str, int]]:
    """Cut names of classes and functions off until a module is left."""
    while name and name not in modules:
        name = name.rpartition(".")[0]
    if name:
        yield name, line


def front_door(package: str, modules: dict[str, Path]) -> dict[str, str]:
    """Map the public names of a package's ``__init__.py`` to the modules that hold them."""
    tree = ast.parse(modules[package].read_text(encoding="utf-8"))
    return {
        alias.asname or alias.name: node.module
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module
        for alias in node.names
    }


def read_imports(modules: dict[str, Path]) -> tuple[Edges, dict[tuple[str, str], str]]:
    """Find which room imports which, and for each pair the first file and line that does it."""
    edges: Edges = {}
    where: dict[tuple[str, str], str] = {}
    for module, file in modules.items():
        room = room_of(module)
        if room is None:
            continue
        edges.setdefault(room, set())
        for target, line in imported_modules(module, file, modules):
            other = room_of(target)
            if other not in (None, room):
                edges[room].add(other)
                where.setdefault((room, other), f"{file.relative_to(ROOT)}:{line}")
    return edges, where


# ------------------------------------------------------------------------------------------------- floors and circles


def circles(edges: Edges) -> list[list[str]]:
    """Find the groups of rooms that reach one another, by Tarjan's strongly connected components."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    groups: list[list[str]] = []

    def visit(room: str) -> None:
        index[room] = low[room] = len(index)
        stack.append(room)
        for other in sorted(edges[room]):
            if other not in index:
                visit(other)
            if other in stack:
                low[room] = min(low[room], low[other])
        if low[room] == index[room]:
            at = stack.index(room)
            groups.append(sorted(stack[at:]))
            del stack[at:]

    for room in sorted(edges):
        if room not in index:
            visit(room)
    return sorted(group for group in groups if len(group) > 1)


def floors_of(edges: Edges, package: str) -> list[list[str]]:
    """Put the rooms of a package on floors, the ground floor first; a room stands above all that it imports.

    Rooms of a circle share a floor.
    """
    rooms = sorted(room for room in edges if room.startswith(f"{package}."))
    group = {room: frozenset(circle) for circle in circles(edges) for room in circle}
    floor: dict[str, int] = {}

    def find(room: str) -> int:
        if room not in floor:
            together = group.get(room, frozenset({room}))
            below = {other for member in together for other in edges[member]} - together
            height = 1 + max((find(other) for other in below if other in rooms), default=0)
            floor.update(dict.fromkeys(together, height))
        return floor[room]

    height = max(map(find, rooms))
    return [[room for room in rooms if floor[room] == level] for level in range(1, height + 1)]


def direct(edges: Edges) -> Edges:
    """Leave out each import of a room that is also reached through another one, so that the picture can be read."""

    def reach(room: str, seen: set[str]) -> set[str]:
        for other in edges[room] - seen:
            seen.add(other)
            reach(other, seen)
        return seen

    return {
        room: {other for other in others if not any(other in reach(between, set()) for between in others - {other})}
        for room, others in edges.items()
    }


# --------------------------------------------------------------------------------------------- the table, the picture


def purpose(room: str, modules: dict[str, Path]) -> str:
    """Take the first sentence of the docstring of a room."""
    text = ast.get_docstring(ast.parse(modules[room].read_text(encoding="utf-8"))) or ""
    sentence = " ".join(text.split("\n\n")[0].split())
    return re.split(r"(?<=[.?!])\s", sentence)[0].replace("``", "`")


def tables(edges: Edges, modules: dict[str, Path]) -> str:
    """Write one table a package, the top floor first."""
    lines = []
    for package in PACKAGES:
        lines += ["", f"### `{package}`", "", "| floor | room | what it is for | imports |", "|---|---|---|---|"]
        floors = floors_of(edges, package)
        for number in range(len(floors), 0, -1):
            for room in floors[number - 1]:
                imports = [f"`{_short(other, package)}`" for other in sorted(edges[room], key=_order)]
                name = _short(room, package)
                lines.append(f"| {number} | `{name}` | {purpose(room, modules)} | {', '.join(imports) or 'none'} |")
    return "\n".join([*lines, ""])


def _short(room: str, package: str) -> str:
    return room.removeprefix(f"{package}.")


def _order(room: str) -> tuple[int, str]:
    return -PACKAGES.index(room.split(".")[0]), room


BOX, HIGH, GAP, STEP, MARGIN = 190, 62, 22, 104, 110
COLOURS = {"cgcnn_ase": ("#e8f1fb", "#2b6cb0"), "aiida_plugin": ("#fdf0e3", "#b7651b")}


def picture(edges: Edges, modules: dict[str, Path]) -> str:
    """Draw the rooms on their floors, with a line from each room to the rooms that it stands on, as SVG."""
    floors = [(package, floor) for package in PACKAGES for floor in floors_of(edges, package)]
    height = STEP * len(floors) + 30
    width = max(len(rooms) for _, rooms in floors) * (BOX + GAP) + 2 * MARGIN
    at: dict[str, tuple[float, float]] = {}
    bands, boxes = [], []
    for number, (package, rooms) in enumerate(floors):
        rooms = _untangled(rooms, edges, at, width)
        top = height - 20 - STEP * (number + 1)
        fill, line = COLOURS[package]
        bands.append(f'<rect x="0" y="{top}" width="{width}" height="{STEP}" fill="{fill}" opacity="0.45"/>')
        for column, room in enumerate(rooms):
            x = width / 2 + (column - len(rooms) / 2) * (BOX + GAP) + GAP / 2
            y = top + (STEP - HIGH) / 2
            at[room] = (x + BOX / 2, y)
            words = wrap(purpose(room, modules).replace("`", ""), 33, max_lines=2, placeholder=" …")
            boxes += [
                f"<g><title>{escape(room)}: {escape(purpose(room, modules))}</title>"
                f'<rect x="{x:.0f}" y="{y:.0f}" width="{BOX}" height="{HIGH}" rx="6" fill="white" stroke="{line}"/>',
                f'<text x="{x + BOX / 2:.0f}" y="{y + 18:.0f}" class="name">{escape(_short(room, package))}</text>',
                *(
                    f'<text x="{x + BOX / 2:.0f}" y="{y + 34 + 13 * k:.0f}" class="words">{escape(row)}</text>'
                    for k, row in enumerate(words)
                ),
                "</g>",
            ]
    for package in PACKAGES:
        upper = max(k for k, (owner, _) in enumerate(floors) if owner == package)
        top = height - 20 - STEP * (upper + 1)
        bands.append(f'<text x="12" y="{top + 22}" class="house" fill="{COLOURS[package][1]}">{package}</text>')
    lines = []
    for room, others in sorted(direct(edges).items()):
        x1, y1 = at[room][0], at[room][1] + HIGH
        for other in sorted(others):
            x2, y2 = at[other]
            colour = COLOURS[room.split(".")[0]][1]
            bend = (y2 - y1) / 2
            path = f"M {x1:.0f} {y1:.0f} C {x1:.0f} {y1 + bend:.0f}, {x2:.0f} {y2 - bend:.0f}, {x2:.0f} {y2:.0f}"
            lines.append(f'<path d="{path}" fill="none" stroke="{colour}" stroke-width="1" opacity="0.5"/>')
    style = (
        "text{font-family:Helvetica,Arial,sans-serif;text-anchor:middle}.name{fill:#1a202c}"
        ".house{font-size:18px;font-weight:bold;text-anchor:start}"
        ".name{font-size:15px;font-weight:bold}.words{font-size:11px;fill:#4a5568}"
    )
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img">',
            "<title>The rooms of cgcnn_ase and aiida_plugin on their floors</title>",
            f'<style>{style}</style><rect width="{width}" height="{height}" fill="white"/>',
            *bands, *lines, *boxes,
            "</svg>", "",
        ]
    )  # fmt: skip


def _untangled(rooms: list[str], edges: Edges, at: dict[str, tuple[float, float]], width: int) -> list[str]:
    """Order the rooms of a floor by where the rooms stand that they import, so that fewer lines cross."""

    def middle(room: str) -> float:
        below = [at[other][0] for other in edges[room] if other in at]
        return sum(below) / len(below) if below else width / 2

    return sorted(rooms, key=lambda room: (middle(room), room))


# ---------------------------------------------------------------------------------------------------- the command line


def with_tables(page: str, text: str) -> str:
    """Put the tables between the two marks of the page."""
    before, _, rest = page.partition(MARKS[0])
    _, mark, after = rest.partition(MARKS[1])
    if not mark:
        sys.exit(f"{PAGE.relative_to(ROOT)} lacks the marks {MARKS[0]} and {MARKS[1]}")
    return f"{before}{MARKS[0]}\n{text}\n{MARKS[1]}{after}"


def main() -> int:
    """Draw or check, and say what is wrong on stderr."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="change nothing; exit code 1 if something is out of date")
    check = parser.parse_args().check
    modules = read_modules(ROOT)
    edges, where = read_imports(modules)
    wrong = []
    for circle in circles(edges):
        inside = [f"  {a} -> {b}: {where[a, b]}" for a in circle for b in sorted(edges[a]) if b in circle]
        wrong += [f"circle of imports: {', '.join(circle)}", *inside]
    page = PAGE.read_text(encoding="utf-8")
    wanted = {PAGE: with_tables(page, tables(edges, modules)), PICTURE: picture(edges, modules)}
    for file, text in wanted.items():
        if not check:
            file.write_text(text, encoding="utf-8")
        elif not file.exists() or file.read_text(encoding="utf-8") != text:
            wrong.append(f"{file.relative_to(ROOT)} does not match the imports; write it again with: make architecture")
    print(*wrong, sep="\n", end="\n" if wrong else "", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
