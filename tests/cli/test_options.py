"""One meaning, one name: the options of all commands, walked through the trees of commands."""

import inspect
from importlib.metadata import version

import numpy as np
import pytest
import typer
from ase.build import bulk
from pymatgen.core import Lattice, Structure

import cgcnn_ase as package
from cgcnn_ase.cli.app import COMMANDS, app
from cgcnn_ase.cli.command import RENAMED
from cgcnn_ase.cli.options import chemical_potentials, repeats, repeats_or_matrix

ROOT = typer.main.get_command(app)
#: short name of each option that has one
SHORT = {"--output": "-o", "--model": "-m", "--quiet": "-q", "--help": "-h", "--profile": "-p"}
#: names that were, or might be, used for what has another name already
NOT_NAMES = {
    "--defects": "--kind", "--defect": "--kind", "--metal": "--mu", "--out": "--output", "--outdir": "--output",
    "--picture": "--plot", "--figure": "--plot", "--force": "--overwrite", "--repeat": "--supercell",
    "--jobs": "--workers", "--random-state": "--seed", "--ensemble": "--members",
}  # fmt: skip
#: options of several commands, the name of their value in Python and what they mean; a word of it is in each help text
SHARED = {
    "--output": ("output", ("folder", "file")),
    "--model": ("model", ("model",)),
    "--population": ("population", ("hypothetical",)),
    "--plot": ("plot", ("draw",)),
    "--kind": ("kind", ("vacancy",)),
    "--element": ("element", ("sites",)),
    "--dopant": ("dopant", ("put in",)),
    "--supercell": ("supercell", ("3x3x1", "5x2x1")),
    "--mu": ("mu", ("ev/atom",)),
    "--max-atoms": ("max_atoms", ("most atoms",)),
    "--min-distance": ("min_distance", ("image",)),
    "--n-atoms": ("n_atoms", ("about so many atoms",)),
    "--li-vacancy": ("li_vacancy", ("lithium",)),
    "--num": ("num", ("structures",)),
    "--seed": ("seed", ("seed", "random")),
    "--format": ("file_format", ("extxyz",)),
    "--overwrite": ("overwrite", ("earlier run",)),
    "--json": ("as_json", ("for machines",)),
    "--quiet": ("quiet", ("only results",)),
    "--environment": ("environment", ("versions",)),
    "--relax": ("relax", ("before",)),
    "--fmax": ("fmax", ("largest force",)),
    "--fixed-cell": ("fixed_cell", ("move the atoms only",)),
    "--order-disordered": ("order_disordered", ("partially occupied",)),
    "--ordering": ("ordering", ("electrostatic",)),
    "--ordering-atoms": ("ordering_atoms", ("about so many atoms",)),
    "--ordering-time": ("ordering_time", ("seconds",)),
    "--ordering-seed": ("ordering_seed", ("seed",)),
    "--ordering-num": ("ordering_num", ("orderings",)),
    "--ordering-model": ("ordering_model", ("energies",)),
    "--structure": ("structure_id", ("id of the",)),
    "--fidelity": ("fidelity", ("whose",)),
    "--target": ("target", ("column",)),
    "--task": ("task", ("classification",)),
    "--unit": ("unit", ("unit",)),
    "--config": ("config", ("yaml",)),
    "--preset": ("preset", ("preset", "by name")),
    "--val": ("val", ("validation",)),
    "--test": ("test", ("test",)),
    "--second-opinion": ("second_opinion", ("another model",)),
    "--workers": ("workers", ("processes", "same time")),
    "--resume": ("resume", ("output",)),
    "--freeze": ("freeze", ("layers",)),
    "--epochs-factor": ("epochs_factor", ("epochs",)),
    "--replay": ("replay", ("learned",)),
    "--n-replay": ("n_replay", ("--replay",)),
    "--epochs": ("epochs", ("passes",)),
    "--batch-size": ("batch_size", ("batch",)),
    "--lr": ("lr", ("learning rate",)),
    "--name": ("name", ("name",)),
    "--scale": ("scale", ("mp2020",)),
    "--entries": ("entries", ("competing phases",)),
    "--steps": ("steps", ("most steps", "quadrature")),
}


def options():
    """Command, parameter and long name of each option."""
    for name, command in ROOT.commands.items():
        for parameter in command.params:
            if parameter.param_type_name == "option":
                (long, *others) = [opt for opt in parameter.opts if opt.startswith("--")]
                assert others == [], f"{name}: {parameter.opts} are two long names of one option"
                yield name, parameter, long


OPTIONS = list(options())
#: a host of which cations change places
MIXING = ["X", "--kind", "cation-mixing"]


def test_an_option_of_several_commands_is_the_same_in_all_of_them():
    """The same short name, the same name in Python, and a word of its meaning in its help."""
    several = {long for _, _, long in OPTIONS if len({name for name, _, other in OPTIONS if other == long}) > 1}
    assert several <= set(SHARED), "an option of two commands needs a row in SHARED"
    for name, parameter, long in OPTIONS:
        shorts = [opt for opt in parameter.opts if not opt.startswith("--")]
        assert shorts == [SHORT[long]] if long in SHORT else shorts == [], (name, long)
        if long in SHARED:
            python_name, words = SHARED[long]
            help_text = parameter.help.lower()
            assert parameter.name == python_name, (name, long)
            assert any(word in help_text for word in words), (name, long, help_text)


def test_no_command_has_another_name_for_it():
    used = {long for _, _, long in OPTIONS}
    assert used & set(NOT_NAMES) == set()
    pictures = {(name, long) for name, parameter, long in OPTIONS if ".svg" in (parameter.help or "")}
    assert {long for _, long in pictures} == {"--plot"}, pictures


def test_each_command_has_what_all_have(cgcnn_ase):
    for name, command in ROOT.commands.items():
        names = {opt for parameter in command.params for opt in parameter.opts}
        assert "--quiet" in names, name
        assert name in ("prepare", "models") or "--output" in names or "--plot" in names, name
        short, long = cgcnn_ase(name, "-h"), cgcnn_ase(name, "--help")
        assert short.code == long.code == 0
        assert short.out == long.out != ""


def test_the_commands_of_aiida():
    pytest.importorskip("aiida")
    from aiida_plugin.cli import data
    from aiida_plugin.cli.app import main

    groups, seen = [main, data.model, data.structures, data.predictions], 0
    while groups:
        group = groups.pop()
        for name in group.list_commands(None):
            command = group.get_command(None, name)
            groups += [command] if hasattr(command, "list_commands") else []
            for parameter in command.params:
                for long in (opt for opt in parameter.opts if opt.startswith("--") and parameter.opts):
                    shorts = [opt for opt in parameter.opts if not opt.startswith("--")]
                    assert long not in NOT_NAMES, (name, long)
                    assert long not in SHORT or SHORT[long] in shorts, (name, long, shorts)
                    seen += 1
    assert seen > 15


# Names and spellings of before


def parsed(command, *arguments):
    return ROOT.commands[command].make_context(command, list(arguments)).params


@pytest.mark.parametrize(
    ("command", "before", "now"),
    [
        ("screen", ["X", "--defects", "antisite", "--output", "o"], ["X", "--kind", "antisite", "-o", "o"]),
        ("screen", ["X", "--defects=antisite", "-o", "o"], ["X", "--kind=antisite", "-o", "o"]),
        ("defects", [*MIXING, "--range", "near", "-o", "o"], [*MIXING, "--pair-range", "near", "-o", "o"]),
        ("explain", ["X", "--output", "a.png"], ["X", "--plot", "a.png"]),
        ("explain", ["X", "-o", "a.png"], ["X", "--plot", "a.png"]),
        ("voltage", ["X", "--metal", "-1.9"], ["X", "--mu", "-1.9"]),
        ("voltage", ["--output", "a.png", "X"], ["X", "--plot", "a.png"]),
        ("defects", ["--supercell", "3", "3", "1", "X", "-o", "o"], ["X", "--supercell", "3x3x1", "-o", "o"]),
        ("defects", ["X", "--output", "o", "--supercell", "3", "3", "1"], ["X", "--supercell", "3x3x1", "-o", "o"]),
    ],
)
def test_old_names_are_read_with_a_note(command, before, now, capsys):
    assert parsed(command, *before) == parsed(command, *now)
    assert " now\n" in capsys.readouterr().err


def test_every_old_name_is_named_in_the_reference(request):
    page = (request.config.rootpath / "docs/reference/cli.md").read_text(encoding="utf-8")
    for command, names in RENAMED.items():
        for old, new in names.items():
            assert (command, new) in [(name, long) for name, _, long in OPTIONS]
            assert old in page


def test_values_are_not_taken_for_options():
    assert parsed("train", "D", "-o", "R", "--name", "--defects")["name"] == "--defects"
    assert parsed("defects", "X", "-o", "o", "--distort", "--bond-distortion", "-0.4")["bond_distortion"] == -0.4
    assert parsed("defects", "-o", "o", "--supercell", "2", "X")["structure"] == "X"
    assert parsed("screen", "-o", "o", "--", "--defects")["host"] == "--defects"


@pytest.mark.parametrize("text", ["3x3x1", "3,3,1", "3 3 1", "3X3X1"])
def test_one_form_of_supercells(text):
    assert repeats(text) == repeats_or_matrix(text) == (3, 3, 1)


def test_supercells_of_nine_numbers_and_bad_ones():
    assert repeats_or_matrix("2 1 0 -1 2 0 0 0 1") == ((2, 1, 0), (-1, 2, 0), (0, 0, 1))
    for text in ("3x3", "a", "2.5", ""):
        with pytest.raises(ValueError, match=f"--supercell {text}: give one"):
            repeats_or_matrix(text)


def test_chemical_potentials():
    assert chemical_potentials(["O=-5.2", " Li = 1"]) == {"O": -5.2, "Li": 1.0}
    assert chemical_potentials(["-1.9"], element="Na") == {"Na": -1.9}
    with pytest.raises(ValueError, match=r"--mu -1\.9: give an element"):
        chemical_potentials(["-1.9"])


# What all commands do


def test_did_you_mean(cgcnn_ase):
    ran = cgcnn_ase("predcit", "x.cif")
    assert ran.code == 2
    assert "predict" in ran.err
    ran = cgcnn_ase("predict", "x.cif", "--modle", "band-gap")
    assert ran.code == 2
    assert "No such option: --modle. Did you mean --model?" in " ".join(ran.err.replace("│", " ").split())
    assert "Did you mean" not in cgcnn_ase("predict", "x.cif", "--qqqqq").err


def test_the_version(cgcnn_ase):
    expected = version("cgcnn-ase")
    assert cgcnn_ase("--version").out == f"cgcnn-ase {expected}\n"
    assert package.__version__ == expected
    assert {"__version__", "CGCNNCalculator", "predict", "load_model"} <= set(dir(package))


def test_quiet(cgcnn_ase, tmp_path):
    loud = cgcnn_ase("cathode", "LiNiO2", "-o", tmp_path / "a", "--json")
    quiet = cgcnn_ase("cathode", "LiNiO2", "-o", tmp_path / "b", "--json", "-q")
    assert (loud.code, quiet.code) == (0, 0)
    assert quiet.out == loud.out
    assert (quiet.err, loud.err != "") == ("", True)
    refused = cgcnn_ase("cathode", "LiNiO2", "-o", tmp_path / "b", "--quiet")
    assert refused.code == 2
    assert "--overwrite" in refused.err
    assert cgcnn_ase("cathode", "LiNiO2", "-o", tmp_path / "b", "--overwrite").err != ""


def test_overwriting_cathodes_leaves_no_old_structure(cgcnn_ase, tmp_path):
    cgcnn_ase("cathode", "NCM811", "-o", tmp_path, "--num", 2, "--n-atoms", 40)
    (tmp_path / "mine.txt").write_text("kept")
    ran = cgcnn_ase("cathode", "LiNiO2", "-o", tmp_path, "--overwrite", "--n-atoms", 12)
    assert ran.code == 0, ran.err
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".csv", ".extxyz", ".txt"]


@pytest.mark.parametrize(
    ("words", "expected"),
    [("cgcnn-ase pre", {"predict", "prepare"}), ("cgcnn-ase predict --model band", {"band-gap", "band-gap-alignn"})],
)
def test_completion(shell, words, expected):
    env = {"_CGCNN_ASE_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(len(words.split()) - 1)}
    assert set(shell(env=env).out.split()) == expected


# Structures of pymatgen


def salt():
    return Structure.from_spacegroup("Fm-3m", Lattice.cubic(5.64), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])


def test_structures_in_and_out():
    from cgcnn_ase.defects import point_defects, random_vacancies
    from cgcnn_ase.structures import as_atoms, to_structure

    (defect, _) = point_defects(salt(), supercell=2)
    assert isinstance(defect.structure, Structure)
    assert defect.structure.composition.as_dict() == {"Na": 31, "Cl": 32}
    assert defect.structure.properties["defect"]["defect"] == "v_Na"
    assert np.allclose(defect.structure.cart_coords, defect.atoms.positions)
    (random,) = random_vacancies(salt(), "Na", num=1, supercell=2)
    assert len(random.structure) == 63
    atoms = bulk("NaCl", "rocksalt", a=5.64)
    assert as_atoms(atoms) is atoms
    assert np.allclose(as_atoms(to_structure(atoms)).positions, atoms.positions)


def test_energies_of_structures():
    from ase.calculators.lj import LennardJones

    from cgcnn_ase.cathodes import average_voltage
    from cgcnn_ase.defects import defect_formation_energy
    from cgcnn_ase.structures import as_atoms

    whole = salt()
    less = whole.copy()
    less.remove_sites([0])
    model = LennardJones(sigma=2.5)
    energies = [
        defect_formation_energy(convert(less), convert(whole), model, chemical_potentials={"Na": -1.0}).energy
        for convert in (as_atoms, Structure.copy)
    ]
    assert energies[0] == energies[1] != 0
    pair = [average_voltage(convert(whole), convert(less), model, lithium=-1.0, ion="Na").voltage
            for convert in (as_atoms, Structure.copy)]  # fmt: skip
    assert pair[0] == pair[1]


def test_commands_are_functions_without_quiet():
    """``--quiet`` is of the command line; in Python the functions stay as they are."""
    assert all("quiet" not in inspect.signature(function).parameters for function in COMMANDS)
