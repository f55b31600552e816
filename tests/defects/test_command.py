"""``cgcnn-ase defects``: its files, table and JSON, and every bad input told in one sentence."""

import json

import ase.io
import numpy as np
import pytest
from ase.build import bulk, mx2
from pymatgen.core import Lattice, Structure

from cgcnn_ase.defects.plan import Manifest, read_manifest

from .conftest import EXAMPLES

HOST = EXAMPLES / "LiNiO2.cif"


@pytest.fixture
def command(cgcnn_ase, tmp_path):
    return lambda *args, host=HOST: cgcnn_ase("defects", host, "--output", tmp_path / "out", *args)


def files(tmp_path):
    return sorted(path.name for path in (tmp_path / "out").iterdir())


def test_vacancies_by_default(command, tmp_path):
    ran = command()
    assert (ran.code, ran.err) == (0, f"3 structures and manifest.csv in {tmp_path / 'out'}\n")
    assert files(tmp_path) == [f"LiNiO2-v_{e}-0.extxyz" for e in ("Li", "Ni", "O")] + ["manifest.csv"]
    for word in ("LiNiO2-v_Li-0", "vacancy", "0 b", "Li38Ni39O78", "155", "10.38 Å"):
        assert word in ran.out


def test_all_kinds(command, tmp_path):
    ran = command("--kind", "all", "--dopant", "Mg", "--supercell", "2", "--json")
    assert ran.code == 0
    rows = json.loads(ran.out)
    assert {row["kind"] for row in rows} == {"vacancy", "antisite", "substitution", "interstitial"}
    manifests = read_manifest(tmp_path / "out" / "manifest.csv")
    assert [row["id"] for row in rows] == [manifest.id for manifest in manifests]
    for manifest in manifests:
        atoms = ase.io.read(tmp_path / "out" / f"{manifest.id}.extxyz")
        assert Manifest.from_info(atoms.info) == manifest
        assert len(atoms) == manifest.n_atoms


@pytest.mark.parametrize(
    ("arguments", "matrix"),
    [
        (["--supercell", "3", "3", "1"], np.diag([3, 3, 1])),
        (["--supercell", "3x3x1"], np.diag([3, 3, 1])),
        (["--supercell", "3,3,1"], np.diag([3, 3, 1])),
        (["--supercell", "2"], np.diag([2, 2, 2])),
        (["--supercell", "2 1 0 -1 2 0 0 0 1"], [[2, 1, 0], [-1, 2, 0], [0, 0, 1]]),
        (["--diagonal", "--min-distance", "8"], np.diag([3, 3, 1])),
    ],
)
def test_supercells(command, tmp_path, arguments, matrix):
    assert command("--element", "Li", *arguments).code == 0
    (manifest,) = read_manifest(tmp_path / "out" / "manifest.csv")
    assert manifest.supercell == tuple(np.ravel(matrix))


@pytest.mark.parametrize("suffix", ["cif", "vasp"])
def test_formats_are_read_back(command, tmp_path, suffix):
    from cgcnn_ase.structures import read_structures

    assert command("--format", suffix, "--kind", "antisite", "--element", "Li").code == 0
    for manifest in read_manifest(tmp_path / "out" / "manifest.csv"):
        atoms = next(iter(read_structures(tmp_path / "out" / f"{manifest.id}.{suffix}"))).unwrap()
        assert len(atoms) == manifest.n_atoms
        assert atoms.symbols.count("Li") == 38


def test_random_vacancies_are_reproducible(command, tmp_path):
    arguments = ["--num", 3, "--n-vacancies", 0.1, "--supercell", "3", "3", "1", "--overwrite"]
    assert command(*arguments).code == 0
    first = {name: (tmp_path / "out" / name).read_bytes() for name in files(tmp_path)}
    assert len(first) == 4
    assert command(*arguments).code == 0
    assert first == {name: (tmp_path / "out" / name).read_bytes() for name in files(tmp_path)}
    assert command(*arguments, "--seed", 7).code == 0
    assert {m.seed for m in read_manifest(tmp_path / "out" / "manifest.csv")} == {7}
    assert first["manifest.csv"] != (tmp_path / "out" / "manifest.csv").read_bytes()


def test_cation_mixing_and_complexes(command, tmp_path):
    kinds = ("--kind", "cation-mixing", "--kind", "complex")
    ran = command(*kinds, "--element", "Li", "--pair-range", "near", "--cutoff", "3")
    assert ran.code == 0
    assert "2.89 Å" in ran.out
    manifests = read_manifest(tmp_path / "out" / "manifest.csv")
    assert [m.defect for m in manifests] == ["Ni_Li+Li_Ni", "v_Li+v_Li"]


def test_charges_and_distortion(command, tmp_path):
    pytest.importorskip("doped")
    ran = command("--element", "Li", "--charges", "--distort", "--bond-distortion", -0.4, "--supercell", "2")
    assert ran.code == 0
    assert "-1 0 +1" in ran.out
    (manifest,) = read_manifest(tmp_path / "out" / "manifest.csv")
    assert (manifest.charges, manifest.oxidation_state, manifest.seed) == ((-1, 0, 1), -1, 42)
    assert manifest.distortion.startswith("-40% of 1 bonds")


def test_a_folder_that_is_not_empty(command, tmp_path):
    assert command("--element", "Li", "--format", "cif").code == 0
    ran = command("--element", "O")
    assert ran.code == 2
    assert ran.err == f"cgcnn-ase: --output {tmp_path / 'out'}: is not empty; name another folder, or add --overwrite\n"
    (tmp_path / "out" / "notes.txt").write_text("mine")
    assert command("--element", "O", "--overwrite").code == 0
    assert files(tmp_path) == ["LiNiO2-v_O-0.extxyz", "manifest.csv", "notes.txt"]


def test_what_fails_leaves_no_files(command, tmp_path):
    ran = command("--kind", "interstitial", "--min-radius", "5")
    assert (ran.code, files(tmp_path)) == (2, [])
    assert "no place for an interstitial is 5 Å or more from every atom" in ran.err


@pytest.fixture(scope="module")
def hosts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hosts")
    ase.io.write(folder / "Cu.extxyz", bulk("Cu"))
    ase.io.write(folder / "MoS2.extxyz", mx2("MoS2", vacuum=8))
    ase.io.write(folder / "two.extxyz", [bulk("Cu"), bulk("Al")])
    mixed = Structure.from_spacegroup(
        "Fm-3m", Lattice.cubic(4.2), [{"Mg": 0.5, "Ni": 0.5}, "O"], [[0, 0, 0], [0.5, 0.5, 0.5]]
    )
    mixed.to(str(folder / "disordered.cif"))
    return folder


@pytest.mark.parametrize(
    ("host", "arguments", "words"),
    [
        ("LiNiO2", ["--kind", "hole"], "unknown kind 'hole'; allowed: vacancy, antisite, substitution"),
        ("LiNiO2", ["--element", "Co"], "LiNiO2 has no Co; its elements are Li, Ni, O"),
        ("LiNiO2", ["--kind", "substitution"], "substitution needs dopants"),
        ("LiNiO2", ["--kind", "interstitial", "--dopant", "Foo"], "dopant 'Foo': is no symbol of an element"),
        ("LiNiO2", ["--kind", "interstitial", "--interstitials", "grid"], "allowed: holes, voronoi"),
        ("LiNiO2", ["--kind", "cation-mixing", "--pair", "Li", "Mn"], "LiNiO2 has no Mn"),
        ("LiNiO2", ["--kind", "complex", "--of", "hole"], "unknown complex_of 'hole'; allowed:"),
        ("LiNiO2", ["--supercell", "two"], "--supercell two: give one, three or nine whole numbers"),
        ("LiNiO2", ["--supercell", "3 3"], "--supercell 3 3: give one, three or nine whole numbers"),
        ("LiNiO2", ["--supercell", "0"], "supercell 0: must be positive"),
        ("LiNiO2", ["--max-atoms", "50"], "no supercell of LiNiO2 with at most max_atoms = 50 atoms"),
        ("LiNiO2", ["--min-distance", "-1"], "min_distance -1.0: must be a positive length"),
        ("LiNiO2", ["--format", "pdf"], "--format pdf: allowed are extxyz, cif, vasp"),
        ("LiNiO2", ["--num", "3", "--kind", "antisite"], "num makes random vacancies, not kind antisite"),
        (
            "LiNiO2",
            ["--num", "3", "--element", "Li", "--element", "O"],
            "num takes one element, there are 2: Li, O",
        ),
        ("LiNiO2", ["--num", "3", "--n-vacancies", "50"], "has 39 Li, fewer than the 50 vacancies asked for"),
        ("LiNiO2", ["--num", "4", "--supercell", "1"], "1 of 3 Li can be removed in 3 ways only"),
        ("LiNiO2", ["--distort", "--bond-distortion", "-2"], "bond_distortion -2: must be between -1 and 2"),
        ("Cu", ["--supercell", "1"], "the supercell of Cu has one atom, none would be left"),
        ("Cu", ["--kind", "antisite"], "antisite: Cu has one element only, Cu"),
        ("Cu", ["--num", "3"], "Cu has no Li; its elements are Cu"),
        ("MoS2", ["--supercell", "2x2x2"], "would repeat MoS2 along its vacuum (c); keep 1 there"),
        ("two", [], "holds 2 structures; name one with --structure (two:0, two:1)"),
        ("two", ["--structure", "two:5"], "no structure 'two:5'; allowed: two:0, two:1"),
        ("disordered", [], "partially occupied sites"),
        ("missing", [], "no such file or folder"),
    ],
)
def test_bad_input(command, hosts, tmp_path, host, arguments, words):
    path = HOST if host == "LiNiO2" else next(hosts.glob(f"{host}.*"), hosts / f"{host}.cif")
    ran = command(*arguments, host=path)
    assert (ran.code, ran.out) == (2, "")
    assert words in ran.err
    assert ran.err.startswith("cgcnn-ase: ")
    assert ran.err.count("\n") == 1
    assert not (tmp_path / "out" / "manifest.csv").exists()


def test_a_disordered_host_can_be_ordered(command, hosts, tmp_path):
    arguments = ("--ordering", "random", "--ordering-atoms", 16, "--element", "Mg", "--supercell", "1")
    ran = command(*arguments, host=hosts / "disordered.cif")
    assert ran.code == 0
    assert "disordered.cif: ordered as" in ran.err
    assert all(manifest.n_atoms <= 32 for manifest in read_manifest(tmp_path / "out" / "manifest.csv"))
    wrong = command("--ordering", "best", host=hosts / "disordered.cif")
    assert (wrong.code, wrong.err) == (
        2, "cgcnn-ase: unknown ordering 'best'; allowed: random, ewald, sqs, lowest\n"
    )  # fmt: skip


def test_folders_for_dft(command, tmp_path):
    ran = command("--element", "Li", "--supercell", "1", "--dft")
    assert ran.code == 0, ran.err
    folders = sorted(
        path.relative_to(tmp_path / "out" / "dft").as_posix() for path in (tmp_path / "out").glob("dft/*/*")
    )
    assert folders == ["defects/LiNiO2-v_Li-0", "pristine/LiNiO2"]
    (tmp_path / "out/dft/pristine/LiNiO2/OUTCAR").write_text("a result")
    assert command("--element", "O", "--supercell", "1", "--dft", "--overwrite").code == 0
    folders = sorted(
        path.relative_to(tmp_path / "out" / "dft").as_posix() for path in (tmp_path / "out").glob("dft/*/*")
    )
    assert folders == ["defects/LiNiO2-v_O-0", "pristine/LiNiO2"]
    assert (tmp_path / "out/dft/pristine/LiNiO2/OUTCAR").exists()


def test_one_host_at_a_time(cgcnn_ase, tmp_path):
    ran = cgcnn_ase("defects", HOST, HOST, "--output", tmp_path / "out")
    assert (ran.code, "unexpected extra argument" in ran.err) == (2, True)


def test_help_and_module_import_nothing_heavy():
    import subprocess
    import sys

    code = """
import sys
sys.argv = ["cgcnn-ase", "defects", "--help"]
from cgcnn_ase.cli import main
try:
    main()
except SystemExit as end:
    assert end.code == 0
import cgcnn_ase.defects
print("MODULES", *sorted({name.partition(".")[0] for name in sys.modules}))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    modules = set(done.stdout.rpartition("MODULES")[2].split())
    heavy = {"torch", "ase", "pymatgen", "pandas", "numpy", "scipy", "spglib", "doped", "shakenbreak", "icet"}
    assert modules.isdisjoint(heavy)


def test_screening_pays_for_nothing_optional():
    """Making defects imports neither doped nor ShakeNBreak nor pymatgen-analysis-defects, nor torch."""
    import subprocess
    import sys

    code = """
import sys
from ase.build import bulk
from cgcnn_ase.defects.point import point_defects
assert len(list(point_defects(bulk("NaCl", "rocksalt", a=5.64), ["vacancy", "interstitial"]))) == 4
print("MODULES", *sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    modules = set(done.stdout.rpartition("MODULES")[2].split())
    assert modules.isdisjoint({"doped", "shakenbreak", "pymatgen.analysis.defects", "torch", "dgl", "matplotlib"})
