"""What is imported when: nothing heavy for help, nothing that is not needed for a prediction."""

import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from cgcnn_ase.core.parallel import available_cores

EXAMPLES = Path(__file__).resolve().parents[1] / "examples" / "structures"
HEAVY = ["torch", "ase", "pymatgen", "pandas", "numpy", "scipy", "pydantic", "dgl", "gemmi", "lightning", "matplotlib"]


def python(code: str, *args) -> str:
    """Run code in a new interpreter; what it prints."""
    done = subprocess.run([sys.executable, "-c", code, *map(str, args)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


def imported_by(code: str, *args) -> set[str]:
    """Top-level names of the modules that are there after some code has run."""
    after = "\nimport sys; print('MODULES', *sorted({name.partition('.')[0] for name in sys.modules}))"
    return set(python(code + after, *args).rpartition("MODULES")[2].split())


def running(arguments: str) -> str:
    return f"""
import sys
from importlib.metadata import version
sys.argv = ["cgcnn-ase", *{arguments}]
from cgcnn_ase.cli import main
try:
    main()
except SystemExit as end:
    assert end.code == 0, end.code
"""


COMMANDS = (
    "predict", "fetch", "inspect", "train", "finetune", "evaluate", "explain", "defects", "cathode", "screen",
    "voltage", "optimize",
)  # fmt: skip


@pytest.mark.parametrize("arguments", ['["--help"]', *(f'["{name}", "--help"]' for name in COMMANDS)])
def test_help_imports_nothing_heavy(arguments):
    allowed = set() if arguments == '["--help"]' else {"pydantic"}  # Typer's own
    assert imported_by(running(arguments)).isdisjoint(set(HEAVY) - allowed)


def test_the_package_imports_nothing_heavy():
    assert imported_by("import cgcnn_ase").isdisjoint([*HEAVY, "typer", "rich"])


def test_workers_import_nothing_before_they_are_asked():
    assert imported_by("import cgcnn_ase.core.parallel").isdisjoint([*HEAVY, "typer", "rich"])


def test_public_names():
    import cgcnn_ase

    for name in cgcnn_ase.__all__:
        assert name == "__version__" or callable(getattr(cgcnn_ase, name))
    assert cgcnn_ase.__version__ == version("cgcnn-ase")
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        cgcnn_ase.nothing  # noqa: B018


#: makes each import of these raise, as where they are not installed
BLOCKER = """
import sys
from importlib.metadata import version
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in sys.argv[1].split(","):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Blocker())
"""


def test_prediction_needs_neither_training_packages_nor_dgl(small_model, cif_folder):
    """Predict a CIF file and write it as CSV, without what only training, plots, DGL and disordered files need."""
    blocked = "lightning,torchmetrics,tensorboard,matplotlib,dgl,joblib,sklearn,requests"
    code = BLOCKER + running(f'["predict", {str(cif_folder(2))!r}, "--model", {str(small_model)!r}, "--workers", "1"]')
    out = python(code, blocked)
    assert [line.partition(",")[0] for line in out.splitlines()] == ["id", "c000", "c001"]


def test_prediction_of_a_cif_imports_no_more_than_it_needs(small_model, cif_folder):
    code = running(f'["predict", {str(cif_folder(1))!r}, "--model", {str(small_model)!r}, "--workers", "1"]')
    assert imported_by(code).isdisjoint(["pandas", "lightning", "torchmetrics", "matplotlib", "dgl", "joblib", "sympy"])


def test_plain_files_are_read_without_the_readers_of_ase():
    code = f"from cgcnn_ase.structures import read_structures; read = list(read_structures({str(EXAMPLES)!r}))"
    code += "; import sys; print(sum(each.error is None for each in read), 'ase.io' in sys.modules)"
    assert python(code).split() == ["10", "False"]


def test_stability_imports_what_is_slow_when_it_needs_it():
    """Torch, the hull's and pymatgen's modules wait; conversions of scales load none of pymatgen's schemes."""
    code = "from cgcnn_ase.stability import predictor; predictor.StabilityPredictor()"
    assert imported_by(code).isdisjoint(["torch", "scipy", "pymatgen", "pandas"])
    code = "from cgcnn_ase.energies.scales import correction; print(correction('Li2NiF4', 'mp2020'))"
    code += "; import sys; print('pymatgen.analysis.compatibility' in sys.modules)"
    assert python(code).split()[-1] == "False"


@pytest.mark.skipif(available_cores() < 2, reason="with one core, one process does all")
def test_a_process_that_predicts_once_leaves_torch_to_another(small_model, cif_folder):
    code = running(f'["predict", {str(cif_folder(2))!r}, "--model", {str(small_model)!r}]')
    assert "torch" not in imported_by(code)
    rows = python(code)
    assert rows == python(code.replace(f"{str(small_model)!r}]", f"{str(small_model)!r}, '--workers', '1']"))
    assert "c001" in rows
