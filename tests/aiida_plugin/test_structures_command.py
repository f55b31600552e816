"""``verdi data cgcnn-structures``, in this process."""

import pytest

pytest.importorskip("aiida")

from aiida import orm
from ase.build import bulk
from ase.io import read, write
from click.testing import CliRunner

from aiida_plugin.cli.data import structures
from aiida_plugin.data.structures import StructureSetData, read_set, write_set

from ..conftest import rock_salt_cif
from ..structures.damage import OF_FILE, OF_STRUCTURE
from ..structures.damage import write as write_damaged


def run(command, *args):
    """The command's result; a traceback fails the test."""
    done = CliRunner().invoke(command, [str(arg) for arg in args])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done


def refused(done):
    """The one line that a refused command says."""
    assert (done.exit_code, done.stdout.strip(), done.stderr.count("\n")) == (2, "", 1), done.output
    return done.stderr


@pytest.fixture(autouse=True)
def profile(aiida_profile_clean):
    return aiida_profile_clean


def stored(done):
    """The node that an import made."""
    assert "Success" in done.output, done.output
    return orm.load_node(int(done.output.split("node ")[-1].split()[0]))


def test_structures_are_imported_under_their_names(cif_folder, tmp_path):
    folder = cif_folder(3)
    write(tmp_path / "more.extxyz", [bulk("Cu"), bulk("Al")])
    node = stored(run(structures, "import", folder, tmp_path / "more.extxyz", "--label", "mine"))
    assert node.ids == ("c000", "c001", "c002", "more:0", "more:1")
    assert node.label == "mine"
    listed = run(structures, "list", "--element", "Cu").output
    assert "mine" in listed
    assert "O-Mg-Al-Ca-Ni-Cu" in listed
    assert "mine" not in run(structures, "list", "--element", "U").output
    assert "mine" not in run(structures, "list", "--labelled").output
    shown = run(structures, "show", node.pk).output
    assert "n_structures: 5" in shown
    assert "more:1" in shown


def test_exports_are_read_again_as_they_were(cif_folder, tmp_path):
    node = stored(run(structures, "import", cif_folder(3)))
    for name in ("a.npz", "folder"):
        assert run(structures, "export", node.pk, tmp_path / name).exit_code == 0
        again = stored(run(structures, "import", tmp_path / name))
        assert again.ids == node.ids
        assert (again.hashes == node.hashes).all()
    assert run(structures, "export", node.pk, tmp_path / "a.extxyz").exit_code == 0
    assert [atoms.info["id"] for atoms in read(tmp_path / "a.extxyz", ":")] == list(node.ids)
    assert "not an empty folder" in refused(run(structures, "export", node.pk, tmp_path / "folder"))
    assert "allowed are a .extxyz or .npz file" in refused(run(structures, "export", node.pk, tmp_path / "a.vasp"))


def test_what_cif_or_file_names_cannot_say(tmp_path):
    slab = bulk("Cu")
    slab.pbc = (True, True, False)
    with pytest.raises(ValueError, match="not periodic in all directions"):
        write_set(StructureSetData.from_ase([slab]), tmp_path / "cifs")
    with pytest.raises(ValueError, match=r"the id '\.\./x' cannot be a file's name"):
        write_set(StructureSetData.from_ase([bulk("Cu")], ["../x"]), tmp_path / "cifs")
    assert not (tmp_path / "cifs").exists()


def test_a_bad_file_stores_nothing_unless_it_may_be_skipped(cif_folder):
    folder = cif_folder(2)
    (folder / "bad.cif").write_text(rock_salt_cif()[:200])
    assert "bad.cif" in refused(run(structures, "import", folder))
    assert orm.QueryBuilder().append(StructureSetData).count() == 0
    done = run(structures, "import", folder, "--skip-bad")
    assert done.exit_code == 1
    assert "bad.cif" in done.stderr
    assert stored(done).ids == ("c000", "c001")
    assert "no such file" in refused(run(structures, "import", folder / "nothing"))


@pytest.mark.parametrize("damage", [*OF_FILE, *OF_STRUCTURE])
def test_a_damaged_packed_file_is_refused(tmp_path, damage):
    """Of a bad structure the words of the records, which `--skip-bad` leaves out alone."""
    change, *_, words = (OF_FILE | OF_STRUCTURE)[damage]
    file = write_damaged(tmp_path / "set.npz", change)
    with pytest.raises(ValueError, match=rf"set\.npz: .*{words}"):
        read_set([file])
    if damage in OF_STRUCTURE:
        node, bad = read_set([file], skip_bad=True)
        assert (node.ids, len(bad)) == (("halite", "iron"), 1)
