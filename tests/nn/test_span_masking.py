"""Hidden spans against the sampler of transformers, and by what each draw must be."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jtl.nn.span_masking import Spans, check_spans, span_mask

DRAWS = 4000
CASES = [
    (Spans(0.3, 4), [40, 25, 7, 3], 40),
    (Spans(0.05, 10, 2), [49, 30, 11, 10], 49),  # wav2vec 2.0's: mostly the least number of spans
    (Spans(0.65, 10), [40, 37, 20, 12], 40),  # of its pre-training
    (Spans(0.9, 1, 1), [9, 5, 2, 1], 9),
]


def draws(spans, lengths, steps):
    keys = jax.random.split(jax.random.key(0), DRAWS)
    return np.asarray(jax.jit(jax.vmap(lambda key: span_mask(key, spans, jnp.array(lengths), steps)))(keys))


@pytest.mark.parametrize(("spans", "lengths", "steps"), CASES)
def test_hides_as_often_as_transformers(spans, lengths, steps):
    """Each step, and each number of hidden steps, within five deviations of what as many draws of each differ by."""
    pytest.importorskip("torch", reason="torch is the reference; it is installed for Python 3.11 only")
    reference = pytest.importorskip("transformers.models.wav2vec2.modeling_wav2vec2")
    import torch

    mask = torch.arange(steps)[None] < torch.tensor(lengths)[:, None]
    np.random.seed(0)
    theirs = np.stack(
        [
            reference._compute_mask_indices((len(lengths), steps), spans.rate, spans.length, mask, spans.least)
            for _ in range(DRAWS)
        ]
    )
    ours, real = draws(spans, lengths, steps), mask.numpy()
    theirs = theirs & real  # it marks the last step, of padding, where a sequence has no room for a span
    assert not (ours & ~real).any()
    assert ours.any()
    for of in (lambda drawn: drawn, lambda drawn: drawn.sum(-1)[..., None] == np.arange(steps + 1)):
        one, two = of(ours).mean(0), of(theirs).mean(0)
        both = (one + two) / 2
        deviation = np.sqrt(2 * both * (1 - both) / DRAWS)
        assert (np.abs(one - two) <= 5 * deviation + 1e-12).all()


def test_one_span_is_one_span():
    """Of the whole length, anywhere in the sequence and nowhere beyond it; none where there is no room."""
    hidden = draws(Spans(0.0, 3, 1), [8, 5, 3, 2], 8)
    np.testing.assert_array_equal(hidden.sum(-1), np.broadcast_to([3, 3, 3, 0], (DRAWS, 4)))
    first = hidden.argmax(-1)
    for i, starts in enumerate([6, 3, 1]):
        assert set(first[:, i]) == set(range(starts))
        rows = hidden[np.arange(DRAWS)[:, None], i, first[:, i, None] + np.arange(3)]
        assert rows.all()
    assert not draws(Spans(0.5, 9, 2), [8], 8).any()


def test_is_a_function_of_the_key():
    """And sequences of a batch are hidden each in its own way."""
    spans, lengths = Spans(0.3, 2), jnp.full(16, 50)
    one, two = (np.asarray(span_mask(jax.random.key(i), spans, lengths, 50)) for i in (1, 2))
    np.testing.assert_array_equal(one, span_mask(jax.random.key(1), spans, lengths, 50))
    assert (one != two).any()
    assert len({row.tobytes() for row in one}) == 16


@pytest.mark.parametrize("spans", [Spans(-0.1), Spans(1.1), Spans(0.1, 0), Spans(0.1, 10, -1)])
def test_numbers_that_are_no_spans_are_refused(spans):
    with pytest.raises(ValueError, match=r"hidden=Spans\("):
        check_spans(hidden=spans)
