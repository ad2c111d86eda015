from pathlib import Path

import numpy as np
import pytest

from jtl.weights.formats.source import LINE, PIECE, ROWS, ByteSource, _spread


@pytest.mark.parametrize(
    "shape", [(3 * ROWS + 5, 1024), (7, PIECE // 4 + 3), (ROWS, 1), (200, 16, 3, 3), (5,), (), (0, 4), (4, 0)]
)
@pytest.mark.parametrize("kept", [np.float32, np.float16])
def test_whatever_the_order_and_type_of_what_it_fills(tmp_path: Path, shape, kept):
    """Pieces of fewer rows than there are, or of one row that is longer than a piece; the end is a part of a piece."""
    whole = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    (tmp_path / "x").write_bytes(b"12345678" + whole.tobytes())
    for order in {tuple(range(whole.ndim)), tuple(range(whole.ndim))[::-1], (*range(1, whole.ndim), 0)[: whole.ndim]}:
        memory = np.full([shape[axis] for axis in order], np.nan, kept)
        into = np.transpose(memory, np.argsort(order))
        ByteSource(tmp_path / "x").fill(8, np.dtype(np.float32), into)
        np.testing.assert_array_equal(memory, np.transpose(whole, order).astype(kept))


@pytest.mark.parametrize("width", [1, 16, 17, 768, 1024, 3072])
def test_rows_lie_an_odd_number_of_lines_apart(width):
    """Of an even number many begin in one place of a cache whose places are a power of two."""
    rows = _spread(np.empty((4, width), np.float32))
    assert rows.shape == (4, width)
    assert rows.strides[0] % (2 * LINE) == LINE
    assert rows.ctypes.data % LINE == 0
