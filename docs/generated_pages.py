"""The parts of the reference that are written when the docs are built: commands, settings, modules.

A line of a page asks for them, and is replaced:

    <!-- commands: cgcnn_ase.cli.app:app -->       each command of a Typer or Click application with its options
    <!-- settings: cgcnn_ase.nn.cgcnn:Config -->    the fields of a class with their defaults and comments
    <!-- modules: cgcnn_ase.graphs -->             autodoc of every module of a room
"""

import ast
import inspect
import re
import textwrap
from importlib import import_module
from pathlib import Path

import click
import typer

ROOT = Path(__file__).resolve().parents[1]


def fill_in(_app, _page, source):
    """Replace the lines of a page that ask for generated text; Sphinx calls this for each page."""
    kinds = {"commands": commands, "settings": settings, "modules": modules}
    source[0] = re.sub(
        r"^<!-- (\w+): (\S+) -->$", lambda match: kinds[match[1]](match[2]), source[0], flags=re.MULTILINE
    )


def commands(where):
    """Describe each command of an application: what it does, its arguments and its options."""
    module, _, name = where.partition(":")
    app = getattr(import_module(module), name)
    root = typer.main.get_command(app) if isinstance(app, typer.Typer) else app
    return "\n".join(_command(root, root.name or name, 2))


def _command(command, path, level):
    lines = []
    if isinstance(command, click.Group):
        context = click.Context(command, info_name=path)
        for name in command.list_commands(context):
            lines += _command(command.get_command(context, name), f"{path} {name}", level)
        return lines
    lines += [f"{'#' * level} `{path}`", "", _plain(command.help), ""]
    rows = [row for parameter in command.params if not getattr(parameter, "hidden", False) for row in _row(parameter)]
    return [*lines, "| argument or option | meaning | default |", "|---|---|---|", *rows, ""]


def _row(parameter):
    if "--help" in parameter.opts:
        return
    if isinstance(parameter, click.Argument):
        names = f"`{parameter.human_readable_name}`" + ("..." if parameter.nargs == -1 else "")
    else:
        names = ", ".join(f"`{name}`" for name in [*parameter.opts, *parameter.secondary_opts])
        if not parameter.is_flag:
            kind = parameter.metavar or getattr(parameter.type, "choices", None) or parameter.type.name
            names += " " + (" or ".join(f"`{choice}`" for choice in kind) if isinstance(kind, list | tuple) else kind)
    default = parameter.default if isinstance(parameter.default, int | float | str) else None
    shown = "" if default is None or parameter.required else f"`{default}`"
    yield f"| {_cell(names)} | {_cell(_plain(getattr(parameter, 'help', '') or ''))} | {_cell(shown)} |"


def _plain(text):
    """Take the help of a command as Markdown: no form feeds, no marks of Rich."""
    return re.sub(r"\[/?(bold|italic|cyan|green|red|dim)\]", "", (text or "").replace("\b\n", "").replace("``", "`")).strip()


def _cell(text):
    return " ".join(text.split()).replace("|", "\\|")


def settings(where):
    """List the fields of a class, those of its bases first: name, type, default, and the comment beside it."""
    module, _, name = where.partition(":")
    rows: dict[str, str] = {}
    for cls in reversed(getattr(import_module(module), name).__mro__):
        if cls.__module__.startswith("cgcnn_ase."):
            rows |= _fields(textwrap.dedent(inspect.getsource(cls)))
    return "\n".join(["| setting | type | default | meaning |", "|---|---|---|---|", *rows.values()])


def _fields(text):
    rows = {}
    lines = text.splitlines()
    for node in ast.parse(text).body[0].body:
        if isinstance(node, ast.AnnAssign) and "ClassVar" not in ast.unparse(node.annotation):
            comment = re.search(r"#:? ?(.*)$", lines[node.end_lineno - 1])
            default = "required" if node.value is None else f"`{_default(node.value)}`"
            kind = _cell(ast.unparse(node.annotation))
            rows[node.target.id] = f"| `{node.target.id}` | `{kind}` | {default} | {comment[1] if comment else ''} |"
    return rows


def _default(node):
    """Show a default factory by what it makes."""
    if isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("field", "Field"):
        for keyword in node.keywords:
            if keyword.arg == "default_factory":
                return f"{ast.unparse(keyword.value).removeprefix('lambda: ')}()".replace(")()", ")")
            if keyword.arg == "default":
                return ast.unparse(keyword.value)
    return ast.unparse(node)


def modules(room):
    """Ask autodoc for a room and each module in it."""
    folder = ROOT / room.replace(".", "/")
    names = []
    for file in sorted(folder.rglob("*.py")) or [folder.with_suffix(".py")]:
        parts = file.relative_to(ROOT).with_suffix("").parts
        if parts[-1] != "__main__":
            names.append(".".join(parts[:-1] if parts[-1] == "__init__" else parts))
    blocks = [f"## `{name}`\n\n```{{eval-rst}}\n.. automodule:: {name}\n```" for name in sorted(names)]
    return "\n\n".join(blocks)
