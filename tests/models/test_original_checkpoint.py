"""The reader of the original CGCNN files: the same numbers as torch, and nothing in a file is ever run."""

import io
import os
import pickle
import struct
import subprocess
import threading
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch

from cgcnn_ase.models.original_cgcnn import read_legacy_checkpoint
from cgcnn_ase.models.restricted_pickle import UnsafeCheckpointError

NAMES = (
    "band-gap",
    "bulk-moduli",
    "efermi",
    "final-energy-per-atom",
    "formation-energy-per-atom",
    "poisson-ratio",
    "semi-metal-classification",
    "shear-moduli",
)

both_formats = pytest.mark.parametrize("zipped", [False, True], ids=["legacy", "zip"])


def network(F=4, n_bonds=5, h=3, n_conv=2, n_h=2, n_out=1, counters=False):
    """Weights of a small CGCNN, under the names of the reference code."""
    linear, norm = torch.nn.Linear, torch.nn.BatchNorm1d
    layers = {"embedding": linear(92, F), "conv_to_fc": linear(F, h), "fc_out": linear(h, n_out)}
    for i in range(n_conv):
        layers |= {f"convs.{i}.fc_full": linear(2 * F + n_bonds, 2 * F)}
        layers |= {f"convs.{i}.bn1": norm(2 * F), f"convs.{i}.bn2": norm(F)}
    layers |= {f"fcs.{i}": linear(h, h) for i in range(n_h - 1)}
    state = OrderedDict(
        (f"{name}.{part}", value) for name, layer in layers.items() for part, value in layer.state_dict().items()
    )
    return state if counters else OrderedDict((k, v) for k, v in state.items() if "num_batches" not in k)


def checkpoint(task="regression", **changes):
    """What the reference code saves; a change to None leaves the entry out."""
    state = changes.pop("state_dict", network(n_out=2 if task == "classification" else 1))
    weights = [torch.nn.Parameter(torch.ones(3))]
    optimizer = torch.optim.SGD(weights, lr=0.01, momentum=0.9)
    optimizer.step(lambda: weights[0].sum().backward())
    content = {
        "epoch": 7,
        "state_dict": state,
        "best_mae_error": np.float64(0.25),
        "optimizer": optimizer.state_dict(),
        "normalizer": {"mean": -1.5, "std": 2.0},
        "args": {"task": task, "lr": 0.01, "data_options": ["a.json", "gap"], "cuda": True, "resume": None},
    }
    return {key: value for key, value in (content | changes).items() if value is not None}


def save(path: Path, content, zipped=False) -> Path:
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    return path


# Reading


@both_formats
@pytest.mark.parametrize("task", ["regression", "classification"])
def test_a_checkpoint_comes_back(tmp_path, zipped, task):
    content = checkpoint(task)
    read = read_legacy_checkpoint(save(tmp_path / "a.pth.tar", content, zipped))
    assert (read.mean, read.std, read.task, read.epoch) == (-1.5, 2.0, task, 7)
    assert read.args == content["args"]
    assert (read.atom_features, read.bond_features, read.hidden, read.n_conv, read.n_hidden) == (4, 5, 3, 2, 2)
    assert read.state.keys() == content["state_dict"].keys()
    assert all(torch.equal(read.state[name], value) for name, value in content["state_dict"].items())


@both_formats
def test_numpy_scalars_and_one_element_tensors_become_plain_numbers(tmp_path, zipped):
    args = {"task": "regression", "f": np.float32(0.5), "i": np.int64(-3), "b": np.bool_(True), "t": torch.tensor(2.0)}
    normalizer = {"mean": torch.tensor(0.25), "std": np.float64(3.5)}
    read = read_legacy_checkpoint(save(tmp_path / "a.pth.tar", checkpoint(args=args, normalizer=normalizer), zipped))
    assert (read.mean, read.std) == (0.25, 3.5)
    assert read.args == {"task": "regression", "f": 0.5, "i": -3, "b": True, "t": 2.0}
    assert [type(value) for value in read.args.values()] == [str, float, int, bool, float]


@pytest.mark.parametrize(("task", "n_out"), [("regression", 1), ("classification", 2)])
def test_the_task_is_read_off_the_output_where_no_argument_names_it(tmp_path, task, n_out):
    path = save(tmp_path / "a.pth.tar", checkpoint(args=None, state_dict=network(n_out=n_out)))
    assert read_legacy_checkpoint(path).task == task
    assert read_legacy_checkpoint(path).args == {}


def test_counters_of_newer_versions_are_left_out(tmp_path):
    state = network(n_h=1, counters=True)
    read = read_legacy_checkpoint(save(tmp_path / "a.pth.tar", checkpoint(state_dict=state)))
    assert read.n_hidden == 1
    assert read.state.keys() == network(n_h=1).keys()


def test_torch_admits_nothing_new_after_a_read(tmp_path):
    before = torch.serialization.get_safe_globals()
    path = save(tmp_path / "a.pth.tar", checkpoint())
    threads = [threading.Thread(target=read_legacy_checkpoint, args=(path,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert torch.serialization.get_safe_globals() == before


@pytest.mark.parametrize("name", NAMES)
def test_original_files_give_the_tensors_that_torch_gives(shared_data, name):
    path = shared_data / "cgcnn_pretrained" / f"{name}.pth.tar"
    truth = torch.load(path, map_location="cpu", weights_only=False)
    read = read_legacy_checkpoint(path)
    assert read.state.keys() == truth["state_dict"].keys()
    for key, value in truth["state_dict"].items():
        assert torch.equal(read.state[key], value)
    assert {"mean": read.mean, "std": read.std} == truth["normalizer"]
    assert (read.epoch, read.args, read.task) == (truth["epoch"], truth["args"], truth["args"]["task"])
    assert (read.atom_features, read.bond_features, read.hidden, read.n_conv, read.n_hidden) == (64, 41, 32, 4, 1)


# Refusing


class Call:
    """Pickles as the call `function(*arguments)`."""

    def __init__(self, function, *arguments, state=None):
        self.function, self.arguments, self.state = function, arguments, state

    def __reduce__(self):
        plain = (self.function, self.arguments)
        return plain if self.state is None else (*plain, self.state)

    def __call__(self):
        """Only callables can be pickled as the function of a call."""


def attacks(canary: Path):
    """A description, an object whose unpickling would create the canary, and the name that the refusal must give."""
    shell, code = f"touch {canary}", f"open({str(canary)!r}, 'w').close()"
    return {
        "os.system": (Call(os.system, shell), f"{os.system.__module__}.system"),
        "eval": (Call(eval, code), "builtins.eval"),
        "exec": (Call(exec, code), "builtins.exec"),
        "open": (Call(open, str(canary), "w"), "open"),
        "subprocess": (Call(subprocess.Popen, ["touch", str(canary)]), "subprocess.Popen"),
        "check_output": (Call(subprocess.check_output, ["touch", str(canary)]), "subprocess.check_output"),
        "nested torch.load": (Call(torch.load, str(canary), "cpu", None), "torch.serialization.load"),
        "nested pickle": (Call(pickle.loads, pickle.dumps(Call(os.system, shell))), "pickle.loads"),
        "getattr": (Call(Call(getattr, Call(__import__, "os"), "system"), shell), "builtins.getattr"),
        "__import__": (Call(__import__, "os"), "builtins.__import__"),
        "map": (Call(list, Call(map, eval, [code])), "builtins.list"),
        "numpy": (Call(np.load, str(canary), None, True), "numpy.load"),
        "touch": (Call(Path.touch, canary), "builtins.getattr"),
        "a torch name": (Call(torch.hub.load, "x", "y"), "torch.hub.load"),
        "parameter": (torch.nn.Parameter(torch.ones(2)), "torch._utils._rebuild_parameter"),
        "array": (np.ones(2), "multiarray._reconstruct"),
        "set": ({1, 2}, "builtins.set"),
    }


@both_formats
@pytest.mark.parametrize("where", ["args", "optimizer", "alone"])
@pytest.mark.parametrize("attack", attacks(Path("canary")))
def test_everything_else_is_refused_by_name_before_it_runs(tmp_path, attack, where, zipped):
    canary = tmp_path / "canary"
    payload, name = attacks(canary)[attack]
    if where == "alone":
        content = payload
    else:
        content = checkpoint()
        content[where]["x"] = payload
    path = save(tmp_path / "X.pth.tar", content, zipped)
    with pytest.raises(
        UnsafeCheckpointError, match=r"refused to load .*X\.pth\.tar: it asks for .*only tensors"
    ) as info:
        read_legacy_checkpoint(path)
    assert name in str(info.value)
    assert not canary.exists()


@pytest.mark.parametrize("protocol", range(6))
def test_a_bare_pickle_of_any_protocol_is_refused_by_name(tmp_path, protocol):
    path, canary = tmp_path / "X.pth.tar", tmp_path / "canary"
    path.write_bytes(pickle.dumps({"a": [Call(os.system, f"touch {canary}")] * 2}, protocol))
    with pytest.raises(UnsafeCheckpointError, match=rf"it asks for {os.system.__module__}\.system;"):
        read_legacy_checkpoint(path)
    assert not canary.exists()


def hand_written(canary: Path):
    """Pickles that no pickler writes, with the name that the refusal must give."""
    shell = f"touch {canary}".encode()
    unicode = b"X" + struct.pack("<I", len(shell)) + shell
    return {
        "INST": (b"(" + unicode + b"iposix\nsystem\n.", "posix.system"),
        "OBJ": (b"(cposix\nsystem\n" + unicode + b"o.", "posix.system"),
        "no protocol": (b"cos\nsystem\n(" + unicode + b"tR.", "os.system"),
        "extension": (b"\x80\x02\x82\x01(" + unicode + b"tR.", "copyreg extension"),
        "dotted": (b"\x80\x04\x8c\x05torch\x8c\x09os.system\x93(" + unicode + b"tR.", "torch.os.system"),
        "memoised": (
            b"\x80\x04\x8c\x06system\x94\x8c\x05posix\x94\x8c\x01x0h\x01h\x00\x93(" + unicode + b"tR.",
            "posix.system",
        ),
        "through an admitted module": (
            b"\x80\x02ctorch._utils\nos.system\n(" + unicode + b"tR.",
            "torch._utils.os.system",
        ),
        "numpy": (b"\x80\x02cnumpy.testing._private.utils\nrunstring\n.", "numpy.testing._private.utils.runstring"),
    }


def legacy_file(pickled: bytes) -> bytes:
    """A file in torch's old format around a pickle."""
    head = [pickle.dumps(value, 2) for value in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True})]
    return b"".join([*head, pickled, pickle.dumps([], 2)])


def zip_file(pickled: bytes, compression=zipfile.ZIP_STORED) -> bytes:
    """A file in torch's new format around a pickle."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        archive.writestr("archive/data.pkl", pickled)
        archive.writestr("archive/byteorder", "little")
        archive.writestr("archive/version", "3\n")
    return buffer.getvalue()


@pytest.mark.parametrize("wrap", [bytes, legacy_file, zip_file])
@pytest.mark.parametrize("trick", hand_written(Path("canary")))
def test_hand_written_pickles_are_refused_by_name(tmp_path, trick, wrap):
    path, canary = tmp_path / "X.pth.tar", tmp_path / "canary"
    pickled, name = hand_written(canary)[trick]
    path.write_bytes(wrap(pickled))
    with pytest.raises(UnsafeCheckpointError, match=f"it asks for .*{name}"):
        read_legacy_checkpoint(path)
    assert not canary.exists()


@pytest.mark.parametrize("position", range(5))
def test_each_of_the_pickles_of_the_old_format_is_looked_at(tmp_path, position):
    path, canary = tmp_path / "X.pth.tar", tmp_path / "canary"
    parts = [pickle.dumps(v, 2) for v in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}, {}, [])]
    parts[position] = pickle.dumps(Call(os.system, f"touch {canary}"), 2)
    path.write_bytes(b"".join(parts))
    with pytest.raises(UnsafeCheckpointError, match=r"it asks for .*system"):
        read_legacy_checkpoint(path)
    assert not canary.exists()


ADMITTED_CALLS = {
    "rebuild of nothing": Call(torch._utils._rebuild_tensor_v2, "x", 0, (1,), (1,), False, OrderedDict()),
    "too few arguments": Call(torch._utils._rebuild_tensor, 1),
    "state of a function": Call(torch._utils._rebuild_tensor, 1, 2, 3, 4, state={"__globals__": 1}),
    "a dtype of objects": Call(np.dtype, "O"),
    "a dtype with fields": Call(np.dtype, [("a", "f8")]),
    "a scalar of a string": Call(np._core.multiarray.scalar, "f8", b"12345678"),
    "a scalar of too few bytes": Call(np._core.multiarray.scalar, np.dtype("f8"), b"1234"),
    "a scalar of an object": Call(np._core.multiarray.scalar, np.dtype("f8"), [1]),
    "a numpy string": np.str_("x"),
    "an unknown codec": Call(__import__("_codecs").encode, "x", "no such codec"),
    "a dict of a number": Call(OrderedDict, 3),
}


@both_formats
@pytest.mark.parametrize("call", ADMITTED_CALLS)
def test_admitted_functions_with_wrong_arguments_are_an_error_that_names_the_file(tmp_path, call, zipped):
    content = checkpoint()
    content["args"]["x"] = ADMITTED_CALLS[call]
    path = save(tmp_path / "X.pth.tar", content, zipped)
    with pytest.raises(ValueError, match=r"X\.pth\.tar"):
        read_legacy_checkpoint(path)


def test_attributes_of_a_dict_do_not_shadow_its_methods(tmp_path):
    content = checkpoint()
    items = list(content["state_dict"].items())
    content["state_dict"] = Call(OrderedDict, items, state={"items": OrderedDict, "keys": OrderedDict, "__class__": 1})
    read = read_legacy_checkpoint(save(tmp_path / "a.pth.tar", content))
    assert len(read.state) == len(network())


def test_advice_to_load_without_protection_is_not_passed_on(tmp_path):
    content = checkpoint()
    content["args"]["x"] = ADMITTED_CALLS["a dtype of objects"]
    with pytest.raises(ValueError, match="numpy") as info:
        read_legacy_checkpoint(save(tmp_path / "X.pth.tar", content))
    assert "weights_only" not in str(info.value)


def test_what_a_user_admitted_to_torch_is_not_admitted_here(tmp_path):
    path = save(tmp_path / "X.pth.tar", checkpoint(optimizer=Call(eval, "1")))
    with torch.serialization.safe_globals([eval]), pytest.raises(UnsafeCheckpointError, match=r"builtins\.eval"):
        read_legacy_checkpoint(path)


# Damage


def test_a_missing_file_and_a_folder_are_named(tmp_path):
    for path in (tmp_path / "none.pth.tar", tmp_path):
        with pytest.raises(FileNotFoundError, match=path.name):
            read_legacy_checkpoint(path)


@both_formats
def test_a_truncated_file_is_an_error_that_names_it(tmp_path, zipped):
    whole = save(tmp_path / "a.pth.tar", checkpoint(), zipped).read_bytes()
    path = tmp_path / "X.pth.tar"
    for length in (*range(0, 300, 7), *range(300, len(whole), 211), len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=r"X\.pth\.tar"):
            read_legacy_checkpoint(path)


@pytest.mark.filterwarnings("ignore")
@both_formats
def test_changed_bytes_give_a_checkpoint_or_an_error_that_names_the_file(tmp_path, zipped):
    whole = np.frombuffer(save(tmp_path / "a.pth.tar", checkpoint(), zipped).read_bytes(), np.uint8)
    path, rng = tmp_path / "X.pth.tar", np.random.default_rng(0)
    for _ in range(200):
        changed = whole.copy()
        where = rng.integers(len(whole), size=rng.integers(1, 4))
        changed[where] = rng.integers(256, size=len(where))
        path.write_bytes(changed.tobytes())
        try:
            assert len(read_legacy_checkpoint(path).state) == len(network())
        except ValueError as error:
            assert "X.pth.tar" in str(error)  # noqa: PT017


@pytest.mark.parametrize("start", [b"", b"\x80\x02", b"PK\x03\x04", b"c", b"(", b"]"])
def test_random_bytes_are_an_error_that_names_the_file(tmp_path, start):
    path, rng = tmp_path / "X.pth.tar", np.random.default_rng(1)
    for length in (0, 1, 10, 100, 10_000):
        path.write_bytes(start + rng.bytes(length))
        with pytest.raises(ValueError, match=r"X\.pth\.tar"):
            read_legacy_checkpoint(path)


def test_other_pickles_and_archives_are_no_checkpoints(tmp_path):
    path = tmp_path / "X.pth.tar"
    path.write_bytes(pickle.dumps({"a": 1}, 2))
    with pytest.raises(ValueError, match=r"not written by torch\.save"):
        read_legacy_checkpoint(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.cif", "data_")
    with pytest.raises(ValueError, match=r"not written by torch\.save"):
        read_legacy_checkpoint(path)
    path.write_bytes(zip_file(pickle.dumps({}, 2), zipfile.ZIP_DEFLATED))
    with pytest.raises(ValueError, match="compressed"):
        read_legacy_checkpoint(path)
    torch.save(checkpoint(best_mae_error=None), path, pickle_protocol=4)
    with pytest.raises(ValueError, match="protocol 4"):
        read_legacy_checkpoint(path)


# Not a CGCNN


def changed(**weights):
    """The state with weights replaced, or left out where None."""
    state = network() | {name.replace("__", "."): value for name, value in weights.items()}
    return {"state_dict": OrderedDict((name, value) for name, value in state.items() if value is not None)}


WRONG = {
    "it has no normalizer": {"normalizer": None},
    "it has no epoch": {"epoch": None},
    "state_dict holds a list, not a dict": {"state_dict": [1]},
    r"normalizer\['mean'\] is None": {"normalizer": {"std": 1.0}},
    r"normalizer\['std'\] is nan": {"normalizer": {"mean": 0.0, "std": float("nan")}},
    r"normalizer\['std'\] is 0\.0, not positive": {"normalizer": {"mean": 0.0, "std": 0.0}},
    "epoch is 'last', not a finite number": {"epoch": "last"},
    "too large": {"epoch": 10**400},
    r"args\['task'\] is 'multi'": {"args": {"task": "multi"}},
    r"args\['x'\] holds a Tensor": {"args": {"x": torch.ones(2)}},
    r"args\['y'\] holds a list": {"args": {"y": [[[[[[[1]]]]]]]}},
    "fc_out.weight missing": changed(fc_out__weight=None),
    "convs.1.bn2.running_var missing": changed(convs__1__bn2__running_var=None),
    "fcs.0.bias missing": changed(fcs__0__bias=None),
    "edges.weight unknown": changed(edges__weight=torch.ones(2)),
    r"convs.1.fc_full.weight of shape \(8, 12\) instead of \(8, 13\)": changed(
        convs__1__fc_full__weight=torch.ones(8, 12)
    ),
    r"fc_out.weight of shape \(1, 3\) instead of \(2, 3\)": {"args": {"task": "classification"}},
    r"fc_out.weight of shape \(3, 3\)": {"state_dict": network(n_out=3), "args": None},
    "embedding.weight takes 60 bits": changed(embedding__weight=torch.ones(4, 60)),
    "embedding.weight is no matrix": changed(embedding__weight=torch.ones(4)),
    "convs.0.fc_full.weight is too narrow": changed(convs__0__fc_full__weight=torch.ones(8, 8)),
    "fc_out.bias holds NaN": changed(fc_out__bias=torch.tensor([float("nan")])),
    "fc_out.bias holds no floating-point tensor": changed(fc_out__bias=torch.tensor([1])),
    "larger than the file": changed(embedding__weight=torch.ones(1, 1).expand(10**7, 92)),
}


@pytest.mark.parametrize("message", WRONG)
def test_what_is_no_cgcnn_is_said_in_words(tmp_path, message):
    path = save(tmp_path / "X.pth.tar", checkpoint(**WRONG[message]))
    with pytest.raises(ValueError, match=rf"X\.pth\.tar.*{message}"):
        read_legacy_checkpoint(path)


def test_another_object_is_no_checkpoint(tmp_path):
    with pytest.raises(ValueError, match="the file holds a list, not a dict"):
        read_legacy_checkpoint(save(tmp_path / "X.pth.tar", [1, 2]))
    with pytest.raises(ValueError, match="it has no state_dict, normalizer, epoch"):
        read_legacy_checkpoint(save(tmp_path / "X.pth.tar", network()))
