"""A model as a node: stored once, guarded by hashes, loadable wherever it goes."""

import gzip
import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("aiida")

from aiida import orm
from aiida.common.exceptions import ValidationError
from aiida.plugins import DataFactory
from aiida.tools.archive import create_archive, import_archive

from aiida_plugin.data.model import BESIDES, CGCNNModelData, hash_of_files
from cgcnn_ase import predict
from cgcnn_ase.models.checkpoint import save_model
from cgcnn_ase.models.folder import CheckpointError
from cgcnn_ase.models.registry import model_info, pretrained_folder

from ..conftest import make_model

MGO = Path(__file__).resolve().parents[2] / "examples" / "structures" / "MgO.cif"
NAME = "formation-energy-per-atom"


@pytest.fixture(autouse=True)
def profile(aiida_profile_clean):
    return aiida_profile_clean


def value_of(model) -> tuple[float, float | None]:
    """What a model says of MgO."""
    return predict(model, MGO)["MgO"]


def test_the_entry_point_gives_the_class():
    assert DataFactory("cgcnn.model") is CGCNNModelData


def test_importing_it_imports_no_torch():
    code = "import sys, aiida_plugin.data.model; print({'torch', 'ase', 'pymatgen', 'pandas'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.strip() == "set()"


def test_the_files_besides_have_the_names_that_are_written():
    from cgcnn_ase.explain.training_neighbors import NEIGHBORS
    from cgcnn_ase.zoo.card import TRAINING_IDS

    assert {NEIGHBORS, TRAINING_IDS} <= set(BESIDES)


def test_attributes_are_those_of_the_folder():
    node = CGCNNModelData.from_name(NAME)
    folder = pretrained_folder() / NAME
    config = json.loads((folder / "config.json").read_text())
    attributes = node.base.attributes.all
    assert attributes["names"] == [NAME]
    assert attributes["targets"] == ["formation_energy_per_atom"]
    assert attributes["units"] == ["eV/atom"]
    assert attributes["train_hashes"] == [config["training"]["train_hash"]]
    assert (attributes["architecture"], attributes["n_members"]) == ("cgcnn", config["n_members"])
    assert attributes["files"] == {
        file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in folder.iterdir() if file.is_file()
    }
    assert attributes["scales"] == node.scales == ["mp-legacy"]
    assert node.sha256 == predict(NAME, MGO).all[0].model_sha256


def test_the_scale_of_the_energies_can_be_queried():
    for name in ("formation-energy-per-atom", "electronic", "cathode-potential"):
        CGCNNModelData.get_or_create(name)
    stated = orm.QueryBuilder().append(CGCNNModelData, project=["attributes.names", "attributes.scales"])
    scales = {name: scale for names, of_node in stated.all() for name, scale in zip(names, of_node, strict=True)}
    assert (scales["band-gap"], scales["cathode-potential"]) == (None, "uncorrected")
    assert all(scale == model_info(name).scale for name, scale in scales.items())
    legacy = orm.QueryBuilder().append(
        CGCNNModelData, filters={"attributes.scales": {"contains": ["mp-legacy"]}}, project="attributes.names"
    )
    assert legacy.all(flat=True) == [[NAME]]


def test_a_node_of_a_version_that_stored_no_scales_tells_them_from_its_files():
    """And is the same node to caching."""
    old, new = CGCNNModelData.from_name(NAME), CGCNNModelData.from_name(NAME)
    old.base.attributes.delete("scales")
    old.store()
    assert "scales" not in orm.load_node(old.pk).base.attributes.all
    assert orm.load_node(old.pk).scales == ["mp-legacy"]
    assert new.store().base.caching.compute_hash() == old.base.caching.compute_hash()


def test_a_loaded_node_predicts_the_same_number():
    node = CGCNNModelData.get_or_create(NAME)
    assert value_of(orm.load_node(node.pk).load()) == value_of(NAME)


def test_the_same_model_is_stored_once(small_model, tmp_path):
    first = CGCNNModelData.get_or_create(small_model)
    elsewhere = shutil.copytree(small_model, tmp_path / "copy")
    assert CGCNNModelData.get_or_create(elsewhere).pk == first.pk
    assert orm.QueryBuilder().append(CGCNNModelData).count() == 1


def test_the_folder_of_a_training_run_is_that_of_its_best_model(small_model, tmp_path):
    shutil.copytree(small_model, tmp_path / "run" / "best")
    (tmp_path / "run" / "metrics.json").write_text("{}")
    assert CGCNNModelData.get_or_create(tmp_path / "run").pk == CGCNNModelData.get_or_create(small_model).pk


def test_a_model_that_learned_from_labels_that_are_not_converged_says_so(tmp_path):
    model = make_model(n_members=1)
    assert "labels_converged" not in CGCNNModelData(save_model(model, tmp_path / "good")).base.attributes.all
    model.training_record = {"labels_converged": False}
    assert CGCNNModelData(save_model(model, tmp_path / "rough")).base.attributes.get("labels_converged") is False


def test_a_stray_file_of_the_folder_stays_outside(small_model, tmp_path):
    folder = shutil.copytree(small_model, tmp_path / "copy")
    (folder / "last.ckpt").write_bytes(b"a pickle")
    assert CGCNNModelData(folder).files == CGCNNModelData(small_model).files


def test_another_card_is_another_node(small_model, tmp_path):
    first = CGCNNModelData.get_or_create(small_model)
    elsewhere = shutil.copytree(small_model, tmp_path / "copy")
    (elsewhere / "README.md").write_text("# Another card\n")
    second = CGCNNModelData.get_or_create(elsewhere)
    assert second.pk != first.pk
    assert second.sha256 == first.sha256


def test_the_hash_of_all_files_tells_names_and_contents_apart():
    one = hash_of_files({"a": "1" * 64, "b": "2" * 64})
    assert one == hash_of_files({"b": "2" * 64, "a": "1" * 64})
    assert one != hash_of_files({"a": "2" * 64, "b": "1" * 64})


def test_models_of_one_folder_are_one_node_and_load_by_name():
    node = CGCNNModelData.get_or_create("band-gap")
    assert CGCNNModelData.get_or_create("efermi").pk == node.pk
    assert dict(zip(node.names, node.base.attributes.get("units"), strict=True))["band-gap"] == "eV"
    assert value_of(node.load("band-gap")) == value_of("band-gap")
    with pytest.raises(ValueError, match=r"name one: band-gap, is-metal"):
        node.load()
    with pytest.raises(ValueError, match=r"no model 'bulk-modulus'; it holds band-gap"):
        node.load("bulk-modulus")


def test_models_are_found_by_name_and_training_set():
    node = CGCNNModelData.get_or_create("electronic")
    CGCNNModelData.get_or_create("elastic")
    train_hash = node.base.attributes.get("train_hashes")[0]
    for filters in (
        {"attributes.names": {"contains": ["efermi"]}},
        {"attributes.train_hashes": {"contains": [train_hash]}},
    ):
        result = orm.QueryBuilder().append(CGCNNModelData, filters=filters, project="id").all(flat=True)
        assert result == [node.pk]


def test_all_is_not_one_model():
    with pytest.raises(ValueError, match=r"all: these are the models of \d folders"):
        CGCNNModelData.from_name("all")


def test_an_unknown_name_lists_the_names():
    with pytest.raises(ValueError, match=r"no model 'nonsense'.*band-gap"):
        CGCNNModelData.from_name("nonsense")


def test_a_node_without_a_model_is_not_stored():
    with pytest.raises(ValidationError, match="needs a model"):
        CGCNNModelData().store()


def test_a_damaged_folder_makes_no_node(small_model, tmp_path):
    folder = shutil.copytree(small_model, tmp_path / "damaged")
    weights = bytearray((folder / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (folder / "model.safetensors").write_bytes(weights)
    with pytest.raises(CheckpointError, match=r"model\.safetensors: damaged"):
        CGCNNModelData(folder)


@pytest.mark.parametrize("file", ["model.safetensors", "config.json"])
def test_a_changed_file_is_named_and_not_stored(small_model, file):
    node = CGCNNModelData(small_model).clone()
    content = bytearray(node.base.repository.get_object_content(file, "rb"))
    content[-2] ^= 1
    node.base.repository.put_object_from_bytes(bytes(content), file)
    with pytest.raises(CheckpointError, match=f"unstored model node: {file} was changed"):
        node.load()
    with pytest.raises(ValidationError, match=f"{file} was changed"):
        node.store()


def test_a_missing_and_a_strange_file_are_named(small_model):
    node = CGCNNModelData(small_model)
    node.base.repository.put_object_from_bytes(b"?", "other.bin")
    with pytest.raises(CheckpointError, match="other.bin does not belong to this model"):
        node.load()
    node.base.repository.delete_object("other.bin")
    node.base.repository.delete_object("model.safetensors")
    with pytest.raises(CheckpointError, match="model.safetensors is missing"):
        node.load()


def test_a_stored_file_changed_on_disk_is_named(small_model, profile):
    node = CGCNNModelData(small_model).store()
    key = node.base.repository.get_object("model.safetensors").key
    loose = Path(profile.storage_config["filepath"]) / "container" / "loose"
    file = next(path for path in loose.rglob("*") if path.parent.name + path.name == key)
    file.chmod(0o600)
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(CheckpointError, match=f"model node {node.pk}: model.safetensors was changed"):
        orm.load_node(node.pk).load()


def test_an_export_is_loadable_and_the_same(small_model, tmp_path):
    node = CGCNNModelData(small_model)
    folder = node.export(tmp_path / "a" / "model")
    assert folder == tmp_path / "a" / "model"
    assert {f.name: f.read_bytes() for f in folder.iterdir()} == {f.name: f.read_bytes() for f in small_model.iterdir()}
    assert value_of(folder) == value_of(small_model)
    with pytest.raises(ValueError, match="not an empty folder"):
        node.export(folder)


def test_an_archive_keeps_it_loadable(small_model, tmp_path, aiida_profile):
    node = CGCNNModelData(small_model).store()
    uuid = node.uuid
    create_archive([node], filename=tmp_path / "model.aiida")
    aiida_profile.reset_storage()
    assert orm.QueryBuilder().append(CGCNNModelData).count() == 0
    import_archive(tmp_path / "model.aiida")
    assert value_of(orm.load_node(uuid).load()) == value_of(small_model)
    assert CGCNNModelData.get_or_create(small_model).uuid == uuid


def test_training_ids_come_along():
    node = CGCNNModelData.from_name(NAME)
    content = node.base.repository.get_object_content("training-ids.txt.gz", "rb")
    written = (pretrained_folder() / NAME / "training-ids.txt.gz").read_bytes()
    assert gzip.decompress(content) == gzip.decompress(written)


def test_an_original_checkpoint(original_weights, tmp_path):
    file = original_weights / "band-gap.pth.tar"
    node = CGCNNModelData.get_or_create(file)
    assert (node.names, node.base.attributes.get("units")) == (["band-gap"], ["eV"])
    assert node.sha256 == hashlib.sha256(file.read_bytes()).hexdigest()
    assert node.base.attributes.get("train_hashes") == [None]
    assert value_of(node.load()) == value_of(file)
    assert node.export(tmp_path / "out") == tmp_path / "out" / "band-gap.pth.tar"
    assert CGCNNModelData.get_or_create(file).pk == node.pk


def test_a_file_that_is_no_model_makes_no_node(tmp_path):
    (tmp_path / "x.txt").write_text("no model")
    with pytest.raises(CheckpointError, match=r"x\.txt: not a model"):
        CGCNNModelData(tmp_path / "x.txt")
