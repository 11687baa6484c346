"""No norm, however strange, gets more than C through."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from privacy.clipping import MARGIN, clipping_weights
from privacy.errors import PrivacyError

NORMS = st.floats(min_value=0, allow_infinity=True) | st.just(math.nan)
C = st.floats(1e-6, 1e6)


@given(st.lists(NORMS, min_size=1, max_size=20), C, st.sampled_from(["flat", "automatic"]))
def test_a_clipped_norm_is_at_most_c(norms, clipping_norm, method):
    norms = np.array(norms)
    weights = clipping_weights(norms, clipping_norm, method)
    assert np.isfinite(weights).all()
    assert (weights >= 0).all()
    finite = np.isfinite(norms)
    assert (weights[finite] * norms[finite] <= clipping_norm * (1 - MARGIN) * (1 + 1e-12)).all()
    assert (weights[~finite] == 0).all()


@pytest.mark.parametrize(
    ("norm", "flat", "automatic"),
    [
        (0.0, 1.0, 100.0),
        (0.5, 1.0, 1 / 0.51),
        (1.0, 1.0, 1 / 1.01),
        (4.0, 0.25, 1 / 4.01),
        (math.nan, 0, 0),
        (math.inf, 0, 0),
    ],
)
def test_weights_are_those_of_the_table(norm, flat, automatic):
    found = [clipping_weights(np.array([norm]), 1.0, method)[0] for method in ("flat", "automatic")]
    assert found == pytest.approx([flat, automatic], rel=2 * MARGIN)


def test_a_small_vector_is_left_alone():
    assert clipping_weights(np.array([0.0, 0.5]), 1.0, "flat").tolist() == [1.0, 1.0]


@pytest.mark.parametrize("clipping_norm", [0.0, -1.0, math.nan, math.inf])
def test_an_impossible_clipping_norm_is_refused(clipping_norm):
    with pytest.raises(PrivacyError, match="clipping norm"):
        clipping_weights(np.ones(1), clipping_norm, "flat")


def test_an_unknown_method_is_refused():
    with pytest.raises(PrivacyError, match="flat"):
        clipping_weights(np.ones(1), 1.0, "none")
