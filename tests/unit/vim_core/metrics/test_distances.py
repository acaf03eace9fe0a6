"""The tiled search for neighbours against scikit-learn's; radii by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.neighbors import NearestNeighbors

from vim_core.metrics.distances import merge_nearest, nearest, neighbour_radii, squared_distances


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 30), st.integers(1, 40), st.integers(1, 4), st.integers(1, 7), st.integers(1, 9))
def test_equals_scikit_learn_whatever_the_tiles(queries: int, vectors: int, count: int, block: int, wide: int) -> None:
    rng = np.random.default_rng(queries * 100 + vectors)
    asked, known = rng.normal(size=(queries, 5)) + 50, (rng.normal(size=(vectors, 5)) + 50).astype(np.float32)
    distances, rows = nearest(asked, known, count, block, wide)
    count = min(count, vectors)
    expected, places = NearestNeighbors(n_neighbors=count, algorithm="brute").fit(known).kneighbors(asked)
    np.testing.assert_allclose(distances, expected, rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(rows, places)


def test_a_copy_has_distance_zero_far_from_the_origin() -> None:
    known = np.random.default_rng(0).normal(size=(50, 8)) * 1e-3 + 1e5
    distances, rows = nearest(known[[7, 31]], known, 1, columns=16)
    assert distances.tolist() == [[0.0], [0.0]]
    assert rows.tolist() == [[7], [31]]


def test_answers_of_parts_make_the_answer_of_the_whole() -> None:
    rng = np.random.default_rng(1)
    asked, known = rng.normal(size=(9, 3)), rng.normal(size=(20, 3))
    left, right = nearest(asked, known[:11], 3), nearest(asked, known[11:], 3)
    whole = nearest(asked, known, 3)
    merged = merge_nearest(left, (right[0], right[1] + 11), 3)
    np.testing.assert_array_equal(merged[1], whole[1])
    np.testing.assert_allclose(merged[0], whole[0], rtol=1e-12)


def test_radii_by_hand_and_blocks_of_any_size() -> None:
    line = np.array([[0.0], [1.0], [3.0], [7.0]])
    assert neighbour_radii(line, 1).tolist() == pytest.approx([1, 1, 4, 16])
    assert neighbour_radii(line, 2, block=3).tolist() == pytest.approx([9, 4, 9, 36])
    assert [len(tile) for tile in squared_distances(line, line, 3)] == [3, 1]
