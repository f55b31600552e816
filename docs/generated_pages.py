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
from types import UnionType
from typing import Literal, Union, get_args, get_origin, get_type_hints

import typer

ROOT = Path(__file__).resolve().parents[1]


def fill_in(_app, _page, source):
    """Replace the lines of a page that ask for generated text; Sphinx calls this for each page."""
    kinds = {"commands": commands, "settings": settings, "modules": modules}
    pattern = rf"^<!-- ({'|'.join(kinds)}): (\S+) -->$"
    source[0] = re.sub(pattern, lambda match: kinds[match[1]](match[2]), source[0], flags=re.MULTILINE)


def commands(where):
    """Describe each command of an application: what it does, its arguments and its options."""
    module, _, name = where.partition(":")
    app = getattr(import_module(module), name)
    root = typer.main.get_command(app) if isinstance(app, typer.Typer) else app
    return "\n".join(_command(root, root.name or name))


def _command(command, path):
    context = command.make_context(path, [], resilient_parsing=True)
    if hasattr(command, "list_commands"):  # a group; Typer has a Click of its own
        names = command.list_commands(context)
        return [line for name in names for line in _command(command.get_command(context, name), f"{path} {name}")]
    rows = [row for parameter in command.params for row in _row(parameter, context)]
    head = ["| argument or option | meaning |", "|---|---|"] if rows else []
    return [f"## `{path}`", "", _plain(command.help), "", *head, *rows, ""]


def _row(parameter, context):
    """Show an argument or option as ``--help`` does."""
    if {"--help", "--verbosity"} & set(parameter.opts) or getattr(parameter, "hidden", False):
        return
    names, text = parameter.get_help_record(context) or (parameter.make_metavar(context), "")
    yield f"| `{_cell(names)}` | {_cell(_plain(text))} |"


def _plain(text):
    """Take the help of a command as Markdown: no form feeds, no marks of Rich."""
    text = inspect.cleandoc(text or "").replace("\b\n", "").replace("``", "`")
    return re.sub(r"\[/?(bold|italic|cyan|green|red|dim)\]", "", text).strip()


def _cell(text):
    return " ".join(text.split()).replace("|", "\\|")


def settings(where):
    """List the fields of a class, those of its bases first: name, what is allowed, default, and what it means."""
    module, _, name = where.partition(":")
    last = getattr(import_module(module), name)
    hints = get_type_hints(last)
    rows = {}
    for cls in reversed(last.__mro__):
        if cls.__module__.startswith("cgcnn_ase."):
            rows |= _fields(cls, hints)
    return "\n".join(["| setting | allowed | default | meaning |", "|---|---|---|---|", *rows.values()])


def _fields(cls, hints):
    text = textwrap.dedent(inspect.getsource(cls))
    lines, rows = text.splitlines(), {}
    for node in ast.parse(text).body[0].body:
        if isinstance(node, ast.AnnAssign) and "ClassVar" not in ast.unparse(node.annotation):
            name = node.target.id
            comment = re.search(r"#:? ?(.*)$", lines[node.end_lineno - 1])
            meaning = re.sub(r":\w+:`(\w+)`", r"`\1`", comment[1]) if comment else ""
            default = "required" if node.value is None else f"`{_default(node.value)}`"
            rows[name] = f"| `{name}` | {_cell(_allowed(hints[name]))} | {_cell(default)} | {_cell(meaning)} |"
    return rows


def _allowed(hint):
    """Show a type by what a YAML file may hold."""
    if get_origin(hint) is Literal:
        return " or ".join(f"`{value}`" for value in get_args(hint))
    if (options := get_args(hint)) and get_origin(hint) in (Union, UnionType):
        return " or ".join(_allowed(option) for option in options)
    words = {int: "whole number", float: "number", bool: "true or false", str: "text", type(None): "nothing"}
    return words.get(hint, f"`{getattr(hint, '__name__', hint)}`")


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
    return "\n\n".join(_module(name, names) for name in sorted(names))


def _module(name, names):
    """Leave out what a package offers under the name of a module in it: that is shown with the module."""
    inner = [other.rpartition(".")[2] for other in names if other.rpartition(".")[0] == name]
    option = f"\n   :exclude-members: {', '.join(['model_config', *sorted(inner)])}" if inner else ""
    return f"## `{name}`\n\n```{{eval-rst}}\n.. automodule:: {name}{option}\n```"
