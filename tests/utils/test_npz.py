"""Arrays of strangers' files: texts of what is no character, which Python itself breaks on."""

import numpy as np
import pytest

from auheat.utils.npz import read_npy, read_npz

NO_TEXT = np.array([0x61, 0x110000, 0x61, 0x62], np.uint32)


@pytest.mark.parametrize("kind", ["<U2", ">U2"])
@pytest.mark.parametrize("values", [NO_TEXT, NO_TEXT[:2], NO_TEXT[::-1]])
def test_text_of_no_characters_is_refused_in_both_kinds_of_file(tmp_path, kind, values):
    text = values.astype(kind[0] + "u4").view(kind)
    np.save(tmp_path / "a.npy", text)
    np.savez(tmp_path / "a.npz", a=text)
    with pytest.raises(ValueError, match="no characters"), (tmp_path / "a.npy").open("rb") as file:
        read_npy(file)
    with pytest.raises(ValueError, match="no characters"):
        read_npz(tmp_path / "a.npz")


@pytest.mark.parametrize("kind", ["<U2", ">U2", "<U0", "S2"])
@pytest.mark.parametrize("shape", [(4,), (2, 2), (0,), ()])
def test_text_of_any_shape_and_order_is_read(tmp_path, kind, shape):
    size = int(np.prod(shape))
    text = np.array(["a", "\U0010ffff" if kind[1] == "U" else "b", "", "cd"])[:size]
    text = text.astype(kind) if kind[0] == "S" else np.asarray(text, kind)
    np.savez(tmp_path / "a.npz", a=text.reshape(shape))
    np.testing.assert_array_equal(read_npz(tmp_path / "a.npz")["a"], text.reshape(shape))


def test_an_array_that_python_2_wrote_is_read_without_a_warning(tmp_path):
    file = tmp_path / "a.npy"
    np.save(file, np.arange(3.0))
    file.write_bytes(file.read_bytes().replace(b"(3,)", b"(3L,)").replace(b"} ", b"}", 1))
    with file.open("rb") as stream:
        assert read_npy(stream).tolist() == [0, 1, 2]
