from __future__ import annotations

import struct
import sys
import zlib
from io import BytesIO

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from decoupe.inference.pictures import read_image
from decoupe.inference.png import encode_png


def chunks(data: bytes) -> list[tuple[bytes, bytes]]:
    """The chunks of a PNG file, each after a look at its checksum."""
    found, at = [], 8
    while at < len(data):
        (length,) = struct.unpack_from(">I", data, at)
        name, content = data[at + 4 : at + 8], data[at + 8 : at + 8 + length]
        assert struct.unpack_from(">I", data, at + 8 + length)[0] == zlib.crc32(name + content)
        found.append((name, content))
        at += 12 + length
    return found


@settings(max_examples=40, deadline=None)
@given(
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    shape=st.sampled_from([(), (3,), (4,)]),
    seed=st.integers(0, 99),
)
def test_eight_bits_come_back(height: int, width: int, shape: tuple[int, ...], seed: int) -> None:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, *shape), np.uint8)
    with Image.open(BytesIO(encode_png(pixels))) as image:
        np.testing.assert_array_equal(np.asarray(image), pixels)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("isal", [True, False])  # Windows on ARM has none
def test_the_strips_of_threads_are_one_stream(
    dtype: type, isal: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not isal:
        monkeypatch.setitem(sys.modules, "isal", None)
    pixels = np.random.default_rng(0).integers(0, 2000, (900, 1300, 3)).astype(dtype)
    data = encode_png(pixels)
    parts = [content for name, content in chunks(data) if name == b"IDAT"]
    assert len(parts) > 4
    rows = zlib.decompress(b"".join(parts))  # which looks at the checksum of the whole
    assert len(rows) == 900 * (1 + 1300 * pixels.itemsize * 3)
    np.testing.assert_array_equal(read_image(data).pixels, pixels)


def test_as_small_as_pillows() -> None:
    rng = np.random.default_rng(0)
    pixels = np.tile(np.arange(400, dtype=np.uint8)[:, None, None], (1, 500, 4))
    pixels[:, :50] = np.arange(50, dtype=np.uint8)[:, None] * 5
    pixels[100:300, 100:300] = rng.normal(128, 6, (200, 200, 4)).astype(np.uint8)
    buffer = BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", compress_level=1, compress_type=3)
    assert len(encode_png(pixels)) < 1.02 * len(buffer.getvalue())
