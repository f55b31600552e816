"""Find words in the code that the project has replaced by the field's own, one line each; exit code 1 if there are any.

    python scripts/check_names.py [--count] [TREE]

Reads syntax trees, so that a common word is a finding only where its table names the place: ``found`` as a local or an
argument, ``words`` as a function or a file. A row of a table is the old word and what to write instead. Beside them,
docstrings that begin with a question word, and names with two meanings, are findings.
"""

import argparse
import ast
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

# ruff: noqa: N815

PACKAGES = ("cgcnn_ase", "aiida_plugin")
ROOTS = (*PACKAGES, "tests", "benchmarks", "scripts", "examples")


class Finding(NamedTuple):
    """A name, where it stands, and what to write instead."""

    path: str
    line: int
    kind: str
    old: str
    new: str


def table(text: str) -> dict[str, str]:
    """Rows of ``old new`` or ``old,older new``; the new one may hold spaces."""
    rows = [line.split(maxsplit=1) for line in text.strip().splitlines()]
    return {name: new for names, new in rows for name in names.split(",")}


# modules of the packages
FILES = table("""
    once idempotent
    words a part of its caller
    finding checks
    use model_usage
    agreement prediction_errors
    division splitting
    kept_trust calibration_reuse
    trust regression_calibration
    class_trust classification_calibration
    tuning,finetune_defaults finetune_recipe
    blending weight_interpolation
    before_after,finetune_report finetune_recipe
    fit_for_task target_checks
    finish assemble
    sources card
    pieces work_items
    files readers
    collect inputs
    check validation
    for_prediction,blocked,blocks fused_cgcnn
    inspection_words write_report
    repeats options
    active optimization
    state run_folder
    measurements known_values
    zoo_model graph_model
    orbits,line_orbits,equal_edges quotient
""")
# classes, and types that a module gives a name
CLASSES = table("""
    Said MemberPrediction
    Answer OracleReply
    Measured ObjectiveValue
    Cell EvaluatedCell
    Belief BatchPosterior
    Aim AcquisitionSettings
    Wanted Goal
    Given SurrogateLike
    Trust Calibration
    ClassTrust ClassificationCalibration
    AnyTrust AnyCalibration
    Judgement CalibratedPrediction
    ModelSays ModelPredictions
    Sameness MatchTolerances
    Kept QueryMatcher
    Credit Attribution
    FromSites SiteModelEstimator
    FromSupercells SupercellEstimator
    DefectCost DefectEnergyEstimate
    Maker DefectBuilder
    _Ask DefectRequest
    Hole InterstitialSite
    UsedNames UniqueIds
    Piece WorkItem
    PackedPiece PackedWorkItem
    _Trunk SharedBackbone
""")
FUNCTIONS = table("""
    admit check
    know add_known_cells
    in_words describe or format_error
    words error_message or notes
    problem validation_error
    say echo_stderr
    judge apply
    keep_trust reuse_calibration
    limited clamp
    extent extensive_factor
    dropped apply_dropout
    connect build_edges
    _counts has_multiplicity
    unlike_the_others group_deviations
    keeps_head can_reuse_head
    member_to_tune finetune_member
    settings_of inherited_settings
    own_config config_for_target
    hold_frozen eval_frozen_modules
    left_out_errors out_of_fold_errors
    _watch with_progress
    _claim init_run_folder
    _named,_only,_over,_some,_plain a name that says what it does
    trunk backbone
""")
# fields of classes, keywords of calls and keys of dicts
SETTINGS = table("""
    trunk backbone
    trunk_rate backbone_lr_scale
    hold_norms freeze_batchnorm_stats
    error_folds cross_fit_folds
    select checkpoint
""")
CONSTANTS = table("""
    FREE RESUMABLE_SETTINGS
    ITSELF OWN_CELL
    NOTHING EMPTY_FIELDS
    FEW,_FEW,MANY,_MANY,LEAST,_LEAST,_ENOUGH,_CLEAR MIN_... or MAX_...
    OWN BUILTIN_ORACLES
    TAKE DEFAULT_SELECTION
    OUTSIDE EXTRA_CALCULATORS
    SAME CONSTANT_COLUMNS
    MADE GENERATED_DATA
    KNOWS SCOPE_TEXT
    KNOWS_CRYSTALS SCOPE_TEXT_CRYSTALS
    BEFORE INITIAL_ROUND
""")
# locals, arguments and fields of classes
LOCALS = table("""
    found result
    said prediction
    own model_...
    given options
    place path
    draft tmp
    taught train_mask
""")
QUESTIONS = ("What", "Which", "Where", "Whether")
# beside classes, which all have one meaning: these have one, too
ONE_MEANING = ("UNITS", "ENERGIES", "reduced_formula")
# "path: kind old", and why it is right as it stands
_OLD_FILES = "run files of version 1 are still read under their old names"
ALLOWED = {
    f"{path}: setting {old}": _OLD_FILES
    for path in ("cgcnn_ase/core/yaml_settings.py", "tests/training/test_settings.py")
    for old in SETTINGS
} | {"cgcnn_ase/core/files.py: file files": "it is of files, and reads none"}


class Reader(ast.NodeVisitor):
    """The findings of one file."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.findings: list[Finding] = []
        self.scopes: list[ast.AST] = []
        self.bound: set[tuple[int, str]] = set()

    def note(self, node: ast.AST, kind: str, names: dict[str, str], old: str) -> None:
        """Keep a finding if the table has the name."""
        if old in names:
            self.findings.append(Finding(self.path, getattr(node, "lineno", 1), kind, old, names[old]))

    def docstring(self, node: ast.AsyncFunctionDef | ast.FunctionDef | ast.ClassDef | ast.Module) -> None:
        first = (ast.get_docstring(node) or "").split(maxsplit=1)[:1]
        if self.path.startswith(PACKAGES) and first and first[0].rstrip(",:") in QUESTIONS:
            line = node.body[0].lineno
            self.findings.append(Finding(self.path, line, "docstring", f"{first[0]} ...", "a verb or a noun phrase"))

    def visit_Module(self, node: ast.Module) -> None:
        self.docstring(node)
        self.within(node)

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        self.note(node, "class", CLASSES, node.name)
        self.docstring(node)
        self.within(node)

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        self.note(node, "function", FUNCTIONS, node.name)
        if self.scopes and not isinstance(self.scopes[-1], ast.Module | ast.ClassDef):
            self.note(node, "local", LOCALS, node.name)
        self.docstring(node)
        self.within(node)

    visit_AsyncFunctionDef = visit_FunctionDef

    def within(self, node: ast.AST) -> None:
        self.scopes.append(node)
        self.generic_visit(node)
        self.scopes.pop()

    visit_Lambda = visit_ListComp = visit_SetComp = visit_DictComp = visit_GeneratorExp = within

    def visit_arg(self, node: ast.arg) -> None:
        self.note(node, "argument", LOCALS, node.arg)
        self.note(node, "argument", SETTINGS, node.arg)
        self.generic_visit(node)

    def visit_Name(self, node: ast.Name) -> None:
        """Bindings: of each name the first in its scope."""
        scope = self.scopes[-1]
        if not isinstance(node.ctx, ast.Store) or (id(scope), node.id) in self.bound:
            return
        self.bound.add((id(scope), node.id))
        if isinstance(scope, ast.Module):
            self.note(node, "class", CLASSES, node.id)
            self.note(node, "constant", CONSTANTS, node.id)
        if isinstance(scope, ast.ClassDef):
            self.note(node, "setting", SETTINGS, node.id)
        self.note(node, "field" if isinstance(scope, ast.ClassDef) else "local", LOCALS, node.id)

    def visit_keyword(self, node: ast.keyword) -> None:
        self.note(node.value, "setting", SETTINGS, node.arg or "")
        self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> None:
        """Settings as strings; ``select`` is a common word and a finding as a key only."""
        if isinstance(node.value, str) and node.value not in ("select", "trunk"):
            self.note(node, "setting", SETTINGS, node.value)

    def visit_Dict(self, node: ast.Dict) -> None:
        for key in node.keys:
            if isinstance(key, ast.Constant) and key.value == "select":
                self.note(key, "setting", SETTINGS, "select")
        self.generic_visit(node)


def duplicates(trees: dict[str, ast.Module]) -> Iterator[Finding]:
    """Public classes, and the names of :data:`ONE_MEANING`, that two modules of the packages define."""
    places: dict[str, list[tuple[str, int]]] = defaultdict(list)
    for path, tree in trees.items():
        for node in tree.body:
            names = [node.name] if isinstance(node, ast.ClassDef) and not node.name.startswith("_") else []
            if isinstance(node, ast.FunctionDef) and node.name in ONE_MEANING:
                names = [node.name]
            targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
            names += [t.id for t in targets if isinstance(t, ast.Name) and t.id in ONE_MEANING]
            for name in names:
                places[name].append((path, node.lineno))
    for name, where in places.items():
        for path, line in where[1:]:
            yield Finding(path, line, "second meaning", name, f"another name: {where[0][0]} has one")


def findings_of(root: Path) -> list[Finding]:
    """All findings of a tree but for those that are allowed."""
    findings: list[Finding] = []
    packages: dict[str, ast.Module] = {}
    for file in sorted(file for part in ROOTS for file in (root / part).rglob("*.py")):
        path = file.relative_to(root).as_posix()
        tree = ast.parse(file.read_text(encoding="utf-8"), filename=path)
        reader = Reader(path)
        if path.startswith(PACKAGES):
            packages[path] = tree
            reader.note(tree, "file", FILES, file.stem)
        reader.visit(tree)
        findings += reader.findings
    findings += duplicates(packages)
    return [one for one in findings if f"{one.path}: {one.kind} {one.old}" not in ALLOWED]


def main() -> int:
    """Print the findings and how many there are of each kind."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("tree", type=Path, nargs="?", default=Path(__file__).resolve().parents[1])
    parser.add_argument("--count", action="store_true", help="print only how many there are")
    options = parser.parse_args()
    findings = findings_of(options.tree)
    if not options.count:
        for path, line, kind, old, new in sorted(findings):
            print(f"{path}:{line}: {kind} {old!r} -> {new!r}")
    for kind, n in sorted(Counter(one.kind for one in findings).items()):
        print(f"{n:6,} {kind}")
    print(f"{len(findings):6,} in all")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
