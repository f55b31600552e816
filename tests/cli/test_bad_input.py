"""Bad input through the command line: every kind is told in words, and one bad file never costs the others."""

import csv
import gzip
import io
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import ase.io
import numpy as np
import psutil
import pytest
from ase.build import bulk

from ..conftest import cif_text, rock_salt_cif

NACL = rock_salt_cif(5.64, "Na", "Cl")
CORNERS = [(0, 0, 0), (0.5, 0.5, 0.5)]


def truncated() -> str:
    """Cut off in the middle of the list of atoms, at the end of a line."""
    return "\n".join(NACL.splitlines()[:-3]) + "\n"


BAD_CIFS = {
    "empty": ("", "is empty"),
    "blank": (" \n\n", ""),
    "cut off in its head": (NACL[:120], ""),
    "cut off in a number": (NACL[:-12], ""),
    "cut off in the list of atoms": (truncated(), "formula"),
    "binary": ("\x00\x01\x02\xff" * 100, ""),
    "a picture": ("\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR" + "\x00" * 50, ""),
    "text": ("This is no CIF at all.\n", ""),
    "of another formula": (cif_text(["Na", "Cl"], CORNERS, formula="Na1 Cl2"), "formula"),
    "no atoms": (NACL.split("loop_")[0], "atom"),
    "no rows": (cif_text([], [], formula="Na1 Cl1"), ""),
    "deuterium": (cif_text(["D", "Cl"], CORNERS), "D"),
    "a dummy X": (cif_text(["X", "Cl"], CORNERS), "X"),
    "a dummy Xx": (cif_text(["Xx", "Cl"], CORNERS), "Xx"),
    "an element that does not exist": (cif_text(["Qq", "Cl"], CORNERS), "Qq"),
    "an element beyond the table": (cif_text(["Lr", "Cl"], CORNERS), "Lr|103"),
    "overlap": (cif_text(["Na", "Cl"], [(0, 0, 0), (0, 0, 0.1 / 4.2)]), r"overlap.* 0\.1"),
    "zero volume": (cif_text(["Na", "Cl"], CORNERS).replace("alpha 90", "alpha 0"), ""),
    "no length": (cif_text(["Na", "Cl"], CORNERS, a=0), ""),
    "NaN coordinate": (cif_text(["Na", "Cl"], [(0, 0, 0), ("nan", 0.5, 0.5)]), ""),
    "infinite coordinate": (cif_text(["Na", "Cl"], [(0, 0, 0), ("inf", 0.5, 0.5)]), ""),
    "unknown coordinate": (cif_text(["Na", "Cl"], [(0, 0, 0), ("?", 0.5, 0.5)]), ""),
    "partial occupancy": (cif_text(["Na", "Cl"], CORNERS).replace("0.5 1\n", "0.5 0.5\n"), "occup"),
}  # fmt: skip


@pytest.fixture
def command(cgcnn_ase, small_model):
    """``cgcnn-ase predict`` with the small model."""
    return lambda *args, stdin=None: cgcnn_ase("predict", *args, "--model", small_model, stdin=stdin)


def bad_name(what: str) -> str:
    return what.replace(" ", "-")


@pytest.fixture
def mixed(cif_folder):
    """A folder with every bad CIF and three good ones between them."""
    folder = cif_folder(3)
    for what, (text, _) in BAD_CIFS.items():
        (folder / f"{bad_name(what)}.cif").write_bytes(text.encode("latin-1"))
    return folder


def read_csv(file: Path) -> list[dict[str, str]]:
    with file.open(newline="") as lines:
        return list(csv.DictReader(lines))


def assert_same_rows(rows, others):
    """Equal but for rounding: numbers depend on the batch in their last digits."""
    assert len(rows) == len(others)
    for row, other in zip(rows, others, strict=True):
        assert row.keys() == other.keys()
        for key in row:
            if key in ("value", "std", "lower", "upper", "epistemic", "aleatoric", "domain_score"):
                assert float(row[key]) == pytest.approx(float(other[key]), rel=1e-4, abs=1e-5), key
            elif key != "source":
                assert row[key] == other[key], key


# Bad structures


def test_bad_files_never_cost_the_good_ones(command, mixed, tmp_path):
    good_only = tmp_path / "good"
    good_only.mkdir()
    for k in range(3):
        shutil.copy(mixed / f"c00{k}.cif", good_only)
    expected = command(good_only)
    assert (expected.code, expected.err) == (0, "")
    ran = command(mixed)
    assert ran.code == 1
    assert_same_rows(ran.rows(), expected.rows())
    *messages, last = ran.err.splitlines()
    assert last == f"{len(BAD_CIFS)} failed, 3 predictions written"
    assert len(messages) == len(BAD_CIFS)  # one line each
    for what, (_, reason) in BAD_CIFS.items():
        import re

        (message,) = [m for m in messages if m.startswith(f"{mixed / bad_name(what)}.cif: ")]
        assert re.search(reason, message), message
        assert len(message.split(": ", 1)[1]) > 10 or message.endswith("is empty"), message


def test_bad_files_in_worker_processes(command, mixed):
    one, two = command(mixed), command(mixed, "--workers", 2)
    assert (two.code, two.err) == (1, one.err)
    assert_same_rows(two.rows(), one.rows())


@pytest.mark.parametrize("what", ["binary", "overlap"])
def test_nothing_but_a_bad_file(shell, mixed, small_model, what):
    ran = shell("predict", mixed / f"{bad_name(what)}.cif", "--model", small_model)
    assert ran.code == 1
    assert ran.rows() == []
    assert ran.out.count("\n") == 1  # the header
    assert bad_name(what) in ran.err


@pytest.mark.parametrize("how", ["csv", "json", "extxyz"])
def test_bad_files_and_an_output_file(command, mixed, tmp_path, how):
    out = tmp_path / f"out.{how}"
    ran = command(mixed, "--output", out)
    assert (ran.code, ran.out) == (1, "")
    if how == "csv":
        ids = [row["id"] for row in read_csv(out)]
    elif how == "json":
        ids = [entry["id"] for entry in json.loads(out.read_text())]
    else:
        ids = [atoms.info["id"] for atoms in ase.io.read(out, ":")]
    assert ids == ["c000", "c001", "c002"]


def test_json_on_stdout(command, mixed):
    ran = command(mixed, "--json")
    assert ran.code == 1
    entries = json.loads(ran.out)
    assert [entry["id"] for entry in entries] == ["c000", "c001", "c002"]
    assert entries[0]["unit"] == "eV/atom"
    assert all(entry["error"] is None for entry in entries)
    assert json.loads(command(mixed / "empty.cif", "--json").out) == []


def test_many_bad_files_are_counted(command, cif_folder):
    folder = cif_folder(2)
    for k in range(60):
        (folder / f"bad{k:02d}.cif").write_text("")
    ran = command(folder)
    assert ran.code == 1
    assert len(ran.err.splitlines()) == 52
    assert "... and 10 more failed\n60 failed, 2 predictions written" in ran.err


def test_a_bad_structure_among_many_in_one_file(command, tmp_path):
    frames = [bulk("MgO", "rocksalt", 4.2 + 0.1 * k) for k in range(3)]
    frames[1].positions[1] = frames[1].positions[0] + 0.05
    ase.io.write(tmp_path / "a.extxyz", frames)
    ran = command(tmp_path / "a.extxyz")
    assert ran.code == 1
    assert [row["id"] for row in ran.rows()] == ["a:0", "a:2"]
    assert ran.err.startswith(f"{tmp_path / 'a.extxyz'} (a:1): atoms 1 (Mg) and 2 (O) overlap")


def test_a_bad_file_is_named_once_for_several_models(cgcnn_ase, mixed, small_model, dropout_model):
    ran = cgcnn_ase(
        "predict", mixed / "empty.cif", mixed / "c000.cif", "--model", small_model, "--model", dropout_model
    )
    assert ran.code == 1
    assert len(ran.rows()) == 2
    assert ran.err.count("empty.cif") == 1
    assert ran.err.endswith("1 failed, 2 predictions written\n")


def test_files_of_one_name_get_the_names_of_their_folders(command, tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.cif").write_text(NACL)
    ran = command(tmp_path / "one", tmp_path / "two")
    assert ran.code == 0
    assert [row["id"] for row in ran.rows()] == ["one_a", "two_a"]
    out = tmp_path / "out.extxyz"
    assert command(tmp_path / "one", tmp_path / "two", "--output", out).code == 0
    assert [atoms.info["id"] for atoms in ase.io.read(out, ":")] == ["one_a", "two_a"]


def test_extxyz_output_keeps_the_info_of_the_file(command, tmp_path):
    atoms = bulk("NaCl", "rocksalt", 5.64)
    atoms.info = {"author": "me", "temperature": 300.0, "value": 7.0}
    ase.io.write(tmp_path / "a.extxyz", atoms)
    out = tmp_path / "out.extxyz"
    assert command(tmp_path / "a.extxyz", "--output", out).code == 0
    info = ase.io.read(out).info
    assert (info["author"], info["temperature"], info["original_value"]) == ("me", 300.0, 7.0)
    assert info["value"] != 7.0


def test_a_file_named_twice_is_predicted_once(command, cif_folder):
    folder = cif_folder(2)
    ran = command(folder, folder / "c000.cif", folder)
    assert (ran.code, len(ran.rows())) == (0, 2)


def test_twenty_thousand_atoms(command, tmp_path):
    atoms = bulk("NaCl", "rocksalt", 5.64, cubic=True) * (14, 14, 13)
    assert len(atoms) == 20384
    ase.io.write(tmp_path / "large.cif", atoms)
    (tmp_path / "small.cif").write_text(NACL)
    ran = command(tmp_path / "large.cif", tmp_path / "small.cif")
    assert (ran.code, ran.err) == (0, "")
    large, small = ran.rows()
    assert int(large["n_atoms"]) == 20384
    assert float(large["value"]) == pytest.approx(float(small["value"]), rel=1e-4)


def test_an_unreadable_file(cif_folder, small_model, shell):
    """Also when the tests run as root, whom permissions do not stop: a dangling link, and a device of this system."""
    folder = cif_folder(2)
    (folder / "secret.cif").write_text(NACL)
    (folder / "secret.cif").chmod(0)
    (folder / "gone.cif").symlink_to(folder / "nowhere")
    ran = shell("predict", folder, "--model", small_model)
    ids = [row["id"] for row in ran.rows()]
    assert ids[:2] == ["c000", "c001"]
    assert "gone" not in ids
    if os.geteuid() != 0:
        assert ran.code == 1
        assert f"{folder / 'secret.cif'}: may not be read (permission denied)" in ran.err


def test_a_folder_with_the_name_of_a_file(command, cif_folder):
    folder = cif_folder(1)
    (folder / "trap.cif").mkdir()
    ran = command(folder)
    assert (ran.code, [row["id"] for row in ran.rows()]) == (0, ["c000"])


def test_a_broken_archive(command, cif_folder):
    folder = cif_folder(1)
    (folder / "bad.cif.gz").write_bytes(gzip.compress(NACL.encode())[:-20])
    (folder / "good.cif.gz").write_bytes(gzip.compress(NACL.encode()))
    ran = command(folder)
    assert ran.code == 1
    assert [row["id"] for row in ran.rows()] == ["c000", "good"]
    assert "bad.cif.gz: " in ran.err


def test_nan_in_other_formats(command, tmp_path):
    atoms = bulk("MgO", "rocksalt", 4.2)
    ase.io.write(tmp_path / "a.vasp", atoms)
    text = (tmp_path / "a.vasp").read_text().splitlines()
    text[-1] = "  nan 0.5 0.5"
    (tmp_path / "a.vasp").write_text("\n".join(text) + "\n")
    atoms.positions[0] = np.nan
    ase.io.write(tmp_path / "b.traj", atoms)
    ran = command(tmp_path)
    assert (ran.code, ran.rows()) == (1, [])
    assert ran.err.count("atom") >= 2


# A list on stdin


def test_paths_from_stdin(command, cif_folder):
    folder = cif_folder(2)
    ran = command("-", stdin=f"{folder / 'c001.cif'}\n\n{folder / 'missing.cif'}\n{folder / 'c000.cif'}\n")
    assert ran.code == 1
    assert [row["id"] for row in ran.rows()] == ["c001", "c000"]
    assert f"{folder / 'missing.cif'}: no such file" in ran.err


def test_an_empty_list(command):
    ran = command("-", stdin="")
    assert ran.code in (0, 2)
    assert ran.rows() == []


# Nothing can be done: exit code 2


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda f: f / "nothing", "no such file or folder"),
        (lambda f: f / "nothing.cif", "no such file or folder"),
        (lambda f: f / "*.cif", "matches no file"),
        (lambda f: f, "holds no structure file"),
        (lambda f: Path(shutil.copy(__file__, f / "a.py")), "unknown suffix"),
    ],
    ids=["folder", "file", "glob", "empty folder", "suffix"],
)
def test_no_input(command, tmp_path, make, words):
    folder = tmp_path / "empty"
    folder.mkdir()
    ran = command(make(folder))
    assert (ran.code, ran.out) == (2, "")
    assert words in ran.err
    assert ran.err.startswith("cgcnn-ase: ")
    assert ran.err.count("\n") == 1


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--output", "out.txt"], r"allowed are names that end in .csv, .json or .extxyz"),
        (["--output", "out"], "allowed are names"),
        (["--output", "/nowhere/out.csv"], "the folder /nowhere does not exist"),
        (["--resume"], "--resume needs --output FILE.csv"),
        (["--resume", "--output", "out.json"], "--resume needs --output FILE.csv"),
        (["--engine", "jax"], "allowed are auto, dgl, torch"),
        (["--workers", "0"], "workers must be at least 1"),
        (["--n-dropout", "10"], "n_dropout needs a model trained with dropout; 'small-formation-energy-per-atom' was"),
        (["--n-dropout", "1"], "n_dropout must be at least 2"),
        (["--model", "gap"], "no model 'gap': neither a file or folder nor a pretrained model; pretrained: "),
        (["--model", __file__], "not a model; allowed: a model folder, or an original CGCNN .pth.tar file"),
    ],
    ids=lambda v: " ".join(v[:2]).replace("/", ":") if isinstance(v, list) else "",
)
def test_usage(command, cif_folder, tmp_path, monkeypatch, options, words):
    monkeypatch.chdir(tmp_path)
    ran = command(cif_folder(1), *options)
    assert (ran.code, ran.out) == (2, "")
    assert words in ran.err
    assert not list(tmp_path.glob("out*"))


@pytest.mark.parametrize(
    "arguments", [["predict"], ["predict", "--nothing"], ["nothing"], ["predict", "a", "--seed", "x"]]
)
def test_usage_of_typer(shell, arguments):
    ran = shell(*arguments)
    assert (ran.code, ran.out) == (2, "")
    assert "Error" in ran.err or "Usage" in ran.err


def test_an_output_that_is_a_folder(command, cif_folder, tmp_path):
    (tmp_path / "out.csv").mkdir()
    ran = command(cif_folder(1), "--output", tmp_path / "out.csv")
    assert ran.code == 2
    assert "out.csv" in ran.err


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk(command, cif_folder, tmp_path):
    (tmp_path / "out.csv").symlink_to("/dev/full")
    ran = command(cif_folder(1), "--output", tmp_path / "out.csv")
    assert ran.code == 2
    assert "No space left on device" in ran.err


def test_a_reader_that_has_enough(cif_folder, small_model):
    """``cgcnn-ase predict ... | head -1`` ends without a traceback."""
    program = [sys.executable, "-m", "cgcnn_ase.cli", "predict", cif_folder(150), "--model", small_model]
    run = subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert run.stdout is not None
    run.stdout.readline()
    run.stdout.close()
    assert run.stderr is not None
    assert run.stderr.read() == ""
    run.wait(120)


# Damaged models


@pytest.fixture
def model_folder(small_model, tmp_path):
    return shutil.copytree(small_model, tmp_path / "model")


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def newer(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"format_version": 99}))


DAMAGE = {
    "no weights": (lambda f: (f / "model.safetensors").unlink(), "no model.safetensors in this model folder"),
    "no configuration": (lambda f: (f / "config.json").unlink(), "no config.json in this model folder"),
    "flipped weights": (lambda f: flip(f / "model.safetensors"), "model.safetensors: damaged: its sha256 is"),
    "flipped configuration": (lambda f: flip(f / "config.json"), "config.json: damaged"),
    "newer": (newer, "format_version 99 is newer than 3"),
    "empty": (lambda f: [file.unlink() for file in f.iterdir()], "in this model folder; it needs"),
}


@pytest.mark.parametrize("what", DAMAGE)
@pytest.mark.parametrize("workers", [1, 2])
def test_damaged_model(cgcnn_ase, model_folder, cif_folder, tmp_path, what, workers):
    damage, words = DAMAGE[what]
    damage(model_folder)
    ran = cgcnn_ase(
        "predict", cif_folder(1), "--model", model_folder, "--workers", workers, "--output", tmp_path / "out.csv"
    )
    assert (ran.code, ran.out) == (2, "")
    assert words in ran.err
    assert str(model_folder) in ran.err
    assert not (tmp_path / "out.csv").exists()


def test_damaged_model_for_evaluate_and_train(cgcnn_ase, model_folder, id_prop, tmp_path):
    flip(model_folder / "model.safetensors")
    for ran in (
        cgcnn_ase("evaluate", model_folder, id_prop()),
        cgcnn_ase("train", id_prop(), "--output", tmp_path / "run", "--from", model_folder),
    ):
        assert (ran.code, ran.out) == (2, "")
        assert "damaged: its sha256" in ran.err


class Evil:
    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.system, (f"touch {self.mark}",)


@pytest.mark.parametrize("command_line", ["predict", "evaluate", "train"])
def test_a_malicious_checkpoint(shell, cif_folder, id_prop, tmp_path, command_line):
    import torch

    file, mark = tmp_path / "evil.pth.tar", tmp_path / "ran"
    torch.save({"state_dict": Evil(mark)}, file, _use_new_zipfile_serialization=False)
    with pytest.raises(pickle.UnpicklingError):
        torch.load(io.BytesIO(file.read_bytes()), weights_only=True)  # it is one
    ran = {
        "predict": lambda: shell("predict", cif_folder(1), "--model", file),
        "evaluate": lambda: shell("evaluate", file, id_prop()),
        "train": lambda: shell("train", id_prop(), "--output", tmp_path / "run", "--from", file),
    }[command_line]()
    assert (ran.code, ran.out) == (2, "")
    assert "system" in ran.err  # refused by name
    assert not mark.exists()


@pytest.mark.parametrize("content", [b"", b"hello", b"PK\x03\x04" + b"\0" * 30], ids=["empty", "text", "zip"])
def test_a_damaged_checkpoint(cgcnn_ase, cif_folder, tmp_path, content):
    (tmp_path / "a.pth.tar").write_bytes(content)
    ran = cgcnn_ase("predict", cif_folder(1), "--model", tmp_path / "a.pth.tar")
    assert (ran.code, ran.out) == (2, "")
    assert "a.pth.tar" in ran.err


# Data sets


@pytest.fixture
def id_prop(tmp_path):
    """A maker of data sets of 12 structures; `rows` replaces the lines of id_prop.csv."""

    def make(*rows: str, files=12) -> Path:
        folder = tmp_path / "data"
        folder.mkdir(exist_ok=True)
        for k in range(files):
            cation = ["Mg", "Ca", "Ni", "Mn", "Fe", "Co", "Sr", "Ba", "Cd", "Zn", "Ti", "V"][k % 12]
            (folder / f"s{k}.cif").write_text(rock_salt_cif(4.2 + 0.05 * k, cation))
        lines = rows or [f"s{k},{-3 + 0.1 * k}" for k in range(files)]
        (folder / "id_prop.csv").write_text("\n".join(lines) + "\n")
        return folder

    return make


BAD_ROWS = {
    "missing structure": (["s0,1.0", "nothing,2.0", "s1,3.0"], ["row 2", "no structure 'nothing'"]),
    "text target": (["s0,1.0", "s1,high", "s2,1.0"], ["row 2", "'high' is not a number"]),
    "empty target": (["s0,1.0", "s1,", "s2,1.0"], ["row 2", "is empty"]),
    "NaN target": (["s0,1.0", "s1,nan", "s2,1.0"], ["row 2", "is not finite"]),
    "repeated id": (["s0,1.0", "s1,2.0", "s0,3.0"], ["row 3", "id 's0' repeats that of row 1"]),
    "missing column": (["s0,1.0", "s1", "s2,1.0"], ["row 2", "has 1 columns, not 2"]),
    "no rows": ([""], ["the file is empty"]),
    "a header only": (["cif_id,energy"], ["a header and no row"]),
    "everything": (["s0,x", "none,1.0", "s1,1.0", "s1,2.0"], ["3 rows cannot be used", "row 1", "row 2", "row 4"]),
}


@pytest.mark.parametrize("what", BAD_ROWS)
def test_bad_rows(cgcnn_ase, id_prop, tmp_path, small_model, what):
    rows, words = BAD_ROWS[what]
    data = id_prop(*rows)
    for ran in (
        cgcnn_ase("train", data, "--output", tmp_path / "run"),
        cgcnn_ase("evaluate", small_model, data),
        cgcnn_ase("prepare", data, "--output", tmp_path / "prepared"),
    ):
        assert (ran.code, ran.out) == (2, "")
        assert f"{data / 'id_prop.csv'}: " in ran.err
        for word in words:
            assert word in ran.err
    assert not (tmp_path / "run").exists()
    assert not (tmp_path / "prepared").exists()


def test_a_bad_structure_in_a_data_set(cgcnn_ase, id_prop, small_model):
    data = id_prop()
    (data / "s3.cif").write_text("")
    ran = cgcnn_ase("evaluate", small_model, data)
    assert (ran.code, ran.out) == (2, "")
    assert "row 4: structure s3.cif is empty" in ran.err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nowhere"], "no such file or folder"),
        (["."], "neither structures.npz nor id_prop.csv"),
        (["data", "--target", "gap"], "no column 'gap'"),
    ],
    ids=["missing", "empty", "column"],
)
def test_bad_data_sets(cgcnn_ase, id_prop, small_model, tmp_path, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    id_prop()
    for ran in (
        cgcnn_ase("train", *arguments, "--output", "run"),
        cgcnn_ase("evaluate", small_model, *arguments),
        cgcnn_ase("prepare", *arguments, "--output", "prepared"),
    ):
        assert (ran.code, ran.out) == (2, "")
        assert words in ran.err


def test_evaluate_an_unknown_split(cgcnn_ase, id_prop, small_model):
    ran = cgcnn_ase("evaluate", small_model, id_prop(), "--split", "test")
    assert (ran.code, ran.out) == (2, "")
    assert "has no split 'test'" in ran.err


# Stopping and going on


def start(folder, model, out, *options):
    """The command in a process group of its own, as a shell would start it."""
    return subprocess.Popen(
        [sys.executable, "-m", "cgcnn_ase.cli", "predict", folder, "--model", model, "--output", out, *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        preexec_fn=heed_ctrl_c,
    )


def heed_ctrl_c():
    """A shell lets its background jobs ignore SIGINT, and so would everything that they start."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def wait_for(condition, run, seconds=300):
    end = time.monotonic() + seconds
    while not condition():
        assert run.poll() is None, run.stderr.read()
        assert time.monotonic() < end
        time.sleep(0.01)


#: so many files that two workers are not done when the first lines are seen
N_SLOW = 800


@pytest.fixture
def slow_folder(tmp_path):
    """Files that take long enough to be interrupted, small and large cells in turn."""
    folder = tmp_path / "slow"
    folder.mkdir()
    large = cif_text(
        ["Mg", "O"] * 108,
        [((x + 0.5 * o) / 6, y / 6, z / 3) for x in range(6) for y in range(6) for z in range(3) for o in (0, 1)],
        a=19.0,
    )
    for k in range(N_SLOW):
        (folder / f"f{k:04d}.cif").write_text(large if k % 4 == 3 else rock_salt_cif(4.1 + 0.001 * k))
    return folder


def whole_lines(out: Path) -> int:
    return out.read_bytes().count(b"\n") if out.exists() else 0


@pytest.mark.parametrize(
    "whom", [pytest.param("group", marks=pytest.mark.long), pytest.param("command", marks=pytest.mark.slow)]
)
def test_interrupted_and_resumed(slow_folder, small_model, cgcnn_ase, tmp_path, whom):
    """Ctrl-C reaches the whole process group, `kill -INT` the command alone."""
    out = tmp_path / "out.csv"
    run = start(slow_folder, small_model, out, "--workers", "2")
    wait_for(lambda: whole_lines(out) > 60, run)
    workers = psutil.Process(run.pid).children(recursive=True)
    assert len(workers) == 2
    (os.killpg if whom == "group" else os.kill)(run.pid, signal.SIGINT)
    stdout, stderr = run.communicate(timeout=120)
    assert run.returncode == 130
    assert stdout == ""
    n = whole_lines(out) - 1
    assert stderr == f"interrupted: what was predicted is in {out}; --resume goes on\n"
    assert out.read_bytes().endswith(b"\n")
    assert 60 <= n < N_SLOW
    assert [row["id"] for row in read_csv(out)] == [f"f{k:04d}" for k in range(n)]
    _, alive = psutil.wait_procs(workers, timeout=10)
    assert alive == []

    n_left = min(n + 40, N_SLOW)
    for k in range(n_left, N_SLOW):
        (slow_folder / f"f{k:04d}.cif").unlink()
    resumed = cgcnn_ase("predict", slow_folder, "--model", small_model, "--output", out, "--resume", "--workers", "1")
    assert resumed.code == 0
    # what follows is the word for the whole batch, which is unlike what the model was held out on
    first, *others = resumed.err.splitlines()
    assert first == f"{n - 1} of {n_left} files are in {out} already"
    assert len(others) == 1
    assert "as a set, are unlike those that small-formation-energy-per-atom was trained on" in others[0]
    assert cgcnn_ase("predict", slow_folder, "--model", small_model, "--output", tmp_path / "b.csv").code == 0
    assert_same_rows(read_csv(out), read_csv(tmp_path / "b.csv"))


@pytest.mark.parametrize("name", [pytest.param("SIGTERM", marks=pytest.mark.slow), "SIGKILL"])
def test_workers_end_with_the_command(slow_folder, small_model, tmp_path, name):
    out = tmp_path / "out.csv"
    run = start(slow_folder, small_model, out, "--workers", "2")
    wait_for(lambda: whole_lines(out) > 1, run)
    workers = psutil.Process(run.pid).children(recursive=True)
    assert len(workers) == 2
    run.send_signal(getattr(signal, name))
    _, stderr = run.communicate(timeout=120)  # the workers hold its stderr open until they end
    assert stderr == ""
    _, alive = psutil.wait_procs(workers, timeout=30)
    assert alive == []
    assert out.read_bytes().endswith(b"\n")


@pytest.fixture
def interrupted_at_the_third(monkeypatch):
    """Ctrl-C comes when two files are predicted."""
    from cgcnn_ase.prediction.predictor import Predictor

    stream = Predictor.stream_files_with

    def interrupted(self, *args, **kwargs):
        for k, prediction in enumerate(stream(self, *args, **kwargs)):
            if k == 2:
                raise KeyboardInterrupt
            yield prediction

    with monkeypatch.context() as patch:
        patch.setattr(Predictor, "stream_files_with", interrupted)
        yield patch


def test_interrupted_in_one_process_and_resumed(cif_folder, small_model, tmp_path, interrupted_at_the_third, cgcnn_ase):
    folder, out = cif_folder(6), tmp_path / "out.csv"
    ran = cgcnn_ase("predict", folder, "--model", small_model, "--output", out)
    assert (ran.code, ran.out) == (130, "")
    assert ran.err == f"interrupted: what was predicted is in {out}; --resume goes on\n"
    assert [row["id"] for row in read_csv(out)] == ["c000", "c001"]
    interrupted_at_the_third.undo()
    resumed = cgcnn_ase("predict", folder, "--model", small_model, "--output", out, "--resume")
    assert resumed.code == 0
    assert resumed.err.startswith(f"1 of 6 files are in {out} already\n")
    assert cgcnn_ase("predict", folder, "--model", small_model, "--output", tmp_path / "b.csv").code == 0
    assert_same_rows(read_csv(out), read_csv(tmp_path / "b.csv"))


@pytest.mark.usefixtures("interrupted_at_the_third")
def test_interrupted_while_writing_json_and_xyz(cif_folder, small_model, tmp_path, cgcnn_ase):
    folder = cif_folder(4)
    for suffix, read in (("json", lambda f: json.loads(f.read_text())), ("extxyz", lambda f: ase.io.read(f, ":"))):
        out = tmp_path / f"out.{suffix}"
        ran = cgcnn_ase("predict", folder, "--model", small_model, "--output", out)
        assert (ran.code, ran.err) == (130, f"interrupted: what was predicted is in {out}\n")
        assert len(read(out)) == 2


@pytest.fixture
def finished(command, cif_folder, tmp_path):
    """A folder of six files, and the CSV of its predictions."""
    folder, out = cif_folder(6), tmp_path / "out.csv"
    assert command(folder, "--output", out).code == 0
    return folder, out


@pytest.mark.parametrize("keep", [0, 10, 0.3, 0.5, 0.77, 1.0])
def test_resume_from_any_byte(command, finished, keep):
    """A run that was killed leaves a file cut off anywhere."""
    folder, out = finished
    whole, rows = out.read_bytes(), read_csv(out)
    out.write_bytes(whole[: int(keep * len(whole)) if isinstance(keep, float) else keep])
    ran = command(folder, "--output", out, "--resume")
    assert (ran.code, ran.out) == (0, "")
    assert_same_rows(read_csv(out), rows)


def test_resume_without_a_file(command, cif_folder, tmp_path):
    assert command(cif_folder(2), "--output", tmp_path / "new.csv", "--resume").code == 0
    assert len(read_csv(tmp_path / "new.csv")) == 2


def test_resume_tries_failed_files_again(command, finished):
    folder, out = finished
    (folder / "a.cif").write_text("")
    ran = command(folder, "--output", out, "--resume")
    assert ran.code == 1
    assert "a.cif: is empty" in ran.err
    (folder / "a.cif").write_text(NACL)
    assert command(folder, "--output", out, "--resume").code == 0
    assert sorted(row["id"] for row in read_csv(out)) == ["a", *(f"c00{k}" for k in range(6))]


def test_resume_remembers_names(command, finished, tmp_path):
    folder, out = finished
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "c001.cif").write_text(NACL)
    ran = command(folder, tmp_path / "more", "--output", out, "--resume")
    assert ran.code == 0
    assert [row["id"] for row in read_csv(out)] == [*(f"c00{k}" for k in range(6)), "more_c001"]


def test_resume_refuses_what_is_not_its_own(command, cgcnn_ase, finished, dropout_model, small_model, tmp_path):
    folder, out = finished
    before = out.read_bytes()
    ran = cgcnn_ase("predict", folder, "--model", dropout_model, "--output", out, "--resume")
    assert ran.code == 2
    assert "holds predictions of another model" in ran.err
    ran = cgcnn_ase("predict", folder, "--model", dropout_model, "--model", small_model, "--output", out, "--resume")
    assert ran.code == 2
    assert "lacks predictions of one of the models" in ran.err
    (tmp_path / "table.csv").write_text("a,b\n1,2\n")
    ran = command(folder, "--output", tmp_path / "table.csv", "--resume")
    assert ran.code == 2
    assert "its header is another" in ran.err
    assert out.read_bytes() == before
    assert (tmp_path / "table.csv").read_text() == "a,b\n1,2\n"


# What goes where


def test_the_table_on_stdout(shell, cif_folder, small_model):
    ran = shell("predict", cif_folder(3), "--model", small_model)
    assert (ran.code, ran.err) == (0, "")
    rows = ran.rows()
    assert [row["id"] for row in rows] == ["c000", "c001", "c002"]
    assert rows[0]["in_domain"] in ("True", "False")
    assert all(float(row["lower"]) < float(row["value"]) < float(row["upper"]) for row in rows)


def test_outputs_agree(command, cif_folder, tmp_path):
    folder = cif_folder(3)
    for suffix in ("csv", "json", "extxyz"):
        ran = command(folder, "--output", tmp_path / f"out.{suffix}")
        assert (ran.code, ran.out, ran.err) == (0, "", "")
    table = read_csv(tmp_path / "out.csv")
    entries = json.loads((tmp_path / "out.json").read_text())
    frames = ase.io.read(tmp_path / "out.extxyz", ":")
    for row, entry, atoms in zip(table, entries, frames, strict=True):
        assert row["id"] == entry["id"] == atoms.info["id"]
        assert float(row["std"]) == entry["std"] == pytest.approx(atoms.info["std"])
        assert float(row["value"]) == entry["value"] == pytest.approx(atoms.info["value"])
        assert atoms.info["model_sha256"] == entry["model_sha256"]
        assert atoms.get_chemical_formula(mode="metal") == entry["formula"]


def test_xyz_of_many_frames_and_models(cgcnn_ase, small_model, dropout_model, crystals, tmp_path):
    ase.io.write(tmp_path / "in.extxyz", crystals[:5])
    out = tmp_path / "out.extxyz"
    ran = cgcnn_ase(
        "predict", tmp_path / "in.extxyz", "--model", small_model, "--model", dropout_model, "--output", out
    )
    assert (ran.code, ran.err) == (0, "")
    frames = ase.io.read(out, ":")
    assert [atoms.info["id"] for atoms in frames] == [f"in:{k // 2}" for k in range(10)]
    assert all(atoms.positions == pytest.approx(crystals[k // 2].positions) for k, atoms in enumerate(frames))


def test_ordered_disorder_in_xyz(command, tmp_path):
    text = cif_text(["Na", "Cl"], CORNERS).replace("Na Na0 0 0 0 1", "Na Na0 0 0 0 0.5").replace("Na1", "Na0.5")
    (tmp_path / "half.cif").write_text(text)
    assert command(tmp_path / "half.cif").code == 1
    ran = command(tmp_path / "half.cif", "--ordering-atoms", 40, "--output", tmp_path / "out.extxyz")
    assert ran.code == 0
    assert ran.err.count("half.cif: ordered as") == len(ran.err.splitlines()) == 1
    assert ase.io.read(tmp_path / "out.extxyz").info["id"] == "half"
    arguments = ("--ordering", "random", "--ordering-num", 2, "--output", tmp_path / "two.extxyz")
    assert command(tmp_path / "half.cif", "--ordering-atoms", 40, *arguments).code == 0
    first, second = ase.io.read(tmp_path / "two.extxyz", ":")
    assert (first.info["id"], second.info["id"]) == ("half:0", "half:1")
    assert first.get_chemical_formula() == second.get_chemical_formula()
    assert first.positions.shape != second.positions.shape or abs(first.positions - second.positions).max() > 1
    ran = command(tmp_path / "half.cif", "--ordering-model", "chgnet")
    assert (ran.code, ran.err) == (2, "cgcnn-ase: --ordering-model chgnet: it is for --ordering lowest\n")


def test_dropout_on_the_command_line(cgcnn_ase, cif_folder, dropout_model):
    folder = cif_folder(2)
    run = lambda seed: cgcnn_ase("predict", folder, "--model", dropout_model, "--n-dropout", 8, "--seed", seed)  # noqa: E731
    assert run(1).out == run(1).out != run(2).out


def test_models_as_json(cgcnn_ase, monkeypatch, tmp_path, small_model):
    from cgcnn_ase.models import registry

    monkeypatch.setattr(registry, "pretrained_folder", lambda: tmp_path)
    assert json.loads(cgcnn_ase("models", "--json").out) == []
    shutil.copytree(small_model, tmp_path / "small")
    (entry,) = json.loads(cgcnn_ase("models", "--json").out)
    assert entry["sha256"] == json.loads((small_model / "config.json").read_text())["sha256"]["model.safetensors"]
    assert "small" in cgcnn_ase("models").out
    flip(tmp_path / "small" / "config.json")
    ran = cgcnn_ase("models")
    assert (ran.code, ran.out) == (2, "")
    assert "damaged" in ran.err


def test_a_model_by_its_name(cgcnn_ase, monkeypatch, tmp_path, small_model, cif_folder):
    from cgcnn_ase.models import registry

    shutil.copytree(small_model, tmp_path / "zoo" / "mine")
    monkeypatch.setattr(registry, "pretrained_folder", lambda: tmp_path / "zoo")
    assert cgcnn_ase("predict", cif_folder(1), "--model", "mine").code == 0
    ran = cgcnn_ase("predict", cif_folder(1, "more"), "--model", "yours")
    assert ran.code == 2
    assert ran.err.endswith("pretrained: mine\n")
