"""Arrays written and read a few rows at a time are NumPy's own files."""

import io

import numpy as np
import pytest

from aiida_plugin.data.structure_archive.arrays import NpyReader, NpyWriter

ARRAYS = {
    "positions": np.arange(3000.0).reshape(-1, 3),
    "lattice": np.linspace(-1, 1, 90).reshape(-1, 3, 3),
    "pbc": np.array([[True, False, True]] * 7),
    "numbers": np.arange(200, dtype=np.uint8),
    "names": np.array(["Ni1", "O", "Å"] * 5),
    "big": np.arange(6, dtype=">f4"),
    "none": np.zeros((0, 3)),
}


@pytest.mark.parametrize("name", ARRAYS)
@pytest.mark.parametrize("step", [1, 4, 10_000])
def test_the_file_is_what_numpy_writes(tmp_path, name, step):
    array = ARRAYS[name]
    with NpyWriter(tmp_path / "a.npy", array.dtype, array.shape[1:]) as writer:
        for start in range(0, len(array), step):
            writer.append(array[start : start + step])
    theirs = io.BytesIO()
    np.save(theirs, array.astype(array.dtype.newbyteorder("<")))
    assert (tmp_path / "a.npy").read_bytes() == theirs.getvalue()


@pytest.mark.parametrize("name", ARRAYS)
def test_rows_come_in_order(tmp_path, name):
    array = ARRAYS[name]
    np.save(tmp_path / "a.npy", array)
    with (tmp_path / "a.npy").open("rb") as file:
        reader = NpyReader(file)
        assert reader.n_rows == len(array)
        first = reader.read(min(2, len(array)))
        rest = reader.read(len(array) - len(first))
    result = np.concatenate([first, rest])
    assert first.dtype == array.dtype
    assert np.array_equal(result, array)
    first[...] = first[:1]  # its own memory, which may be written to


class Trickle(io.BytesIO):
    """A stream that gives less than it is asked for, as those of compressed archives may."""

    def read(self, size=-1):
        return super().read(min(size, 7) if size >= 0 else 7)


def test_a_stream_that_gives_little_at_a_time():
    file = Trickle()
    np.save(file, ARRAYS["positions"])
    file.seek(0)
    assert np.array_equal(NpyReader(file).read(1000), ARRAYS["positions"])


def test_an_array_that_ends_too_early_is_told():
    file = io.BytesIO()
    np.save(file, ARRAYS["positions"])
    reader = NpyReader(io.BytesIO(file.getvalue()[:-8]))
    reader.read(999)
    with pytest.raises(ValueError, match="ends before its last row"):
        reader.read(1)


@pytest.mark.parametrize("array", [np.asfortranarray(np.ones((3, 2))), np.array(1.0), np.array([None])])
def test_what_is_no_table_is_told(array):
    file = io.BytesIO()
    np.save(file, array, allow_pickle=True)
    file.seek(0)
    with pytest.raises(ValueError, match="not a plain table"):
        NpyReader(file)
