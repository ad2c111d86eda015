"""Question answering against transformers, and its decoding by brute force."""

import jax.numpy as jnp
import numpy as np
import pytest

from jtl import Variables, heads, load, network, predictor, tasks
from jtl.preprocess.answer_windows import Windows
from jtl.reads import whole
from jtl.tasks.qa import exact


def test_loss_and_logits_are_transformers(tmp_path):
    torch = pytest.importorskip("torch")
    pytest.importorskip("transformers")
    from text_references import hf_text, texts, to_torch

    theirs = hf_text("bert", "ForQuestionAnswering", classes=2)
    theirs.save_pretrained(tmp_path)
    loaded = load(tmp_path, unused=("qa_outputs.*",))
    state = {name: value.detach().numpy() for name, value in theirs.qa_outputs.named_parameters()}
    head = {"out": {"kernel": state["weight"].T, "bias": state["bias"]}}
    net = network(backbone=loaded.backbone, head=heads.per_position(2, reads=whole("last")))
    x, start, end = texts("bert"), np.array([3, 1, 0]), np.array([5, 2, 0])
    output = predictor(net)(Variables({**loaded.variables.params, "head": head}, {}), x)
    with torch.no_grad():
        out = theirs(**to_torch(x), start_positions=torch.tensor(start), end_positions=torch.tensor(end))
    np.testing.assert_allclose(output[..., 0], out.start_logits, atol=1e-5)
    np.testing.assert_allclose(output[..., 1], out.end_logits, atol=1e-5)
    y = {"start": start, "end": end, "allowed": np.ones(x["mask"].shape, bool)}  # theirs rules nothing out
    np.testing.assert_allclose(tasks.span_loss(output, y).mean(), out.loss, rtol=1e-5)


def test_what_is_ruled_out_takes_no_probability():
    logits = jnp.asarray(np.random.default_rng(0).normal(size=(2, 6, 2)), jnp.float32)
    allowed = np.array([[1, 0, 1, 1, 0, 0], [1, 1, 0, 0, 0, 0]], bool)
    y = {"start": np.array([2, 1]), "end": np.array([3, 1]), "allowed": allowed}
    wanted = []
    for z, there, a, b in zip(np.asarray(logits, np.float64), allowed, y["start"], y["end"], strict=True):
        p = np.exp(z) / np.exp(z[there]).sum(0)
        wanted.append(-(np.log(p[a, 0]) + np.log(p[b, 1])) / 2)
    np.testing.assert_allclose(tasks.span_loss(logits, y), wanted, rtol=1e-5)


def test_a_nan_logit_of_an_allowed_token_is_not_right():
    logits, zero = np.zeros((3, 3, 2), np.float32), np.zeros(3, int)
    logits[1], logits[2, 2, 1] = np.nan, np.nan
    y = {"start": zero, "end": zero, "allowed": np.array([[True, True, False]] * 3)}
    np.testing.assert_array_equal(exact(jnp.asarray(logits), y), [1, np.nan, 1])  # of [1] the argmax is 0 too


@pytest.mark.parametrize("longest", [1, 2, 5, 20])
def test_the_best_span_is_that_of_a_search_through_all(longest):
    draw = np.random.default_rng(longest)
    for _ in range(20):
        logits, context = draw.normal(size=(9, 2)), draw.random(9) < 0.7
        spans = {
            (i, j): logits[i, 0] + logits[j, 1]
            for i in range(9)
            for j in range(i, min(9, i + longest))
            if context[i] and context[j]
        }
        first, last, score = tasks.best_span(logits, context, longest)
        best = max(spans, key=spans.__getitem__)
        assert (first, last) == best
        np.testing.assert_allclose(score, spans[best])


def windows_of(question, contexts):
    place = np.arange(4)
    offsets = np.broadcast_to(np.stack([place, place + 1], -1), (len(question), 4, 2))
    context = np.broadcast_to(place > 0, (len(question), 4))
    return Windows(np.array(question), context, offsets, np.zeros(len(question), int), contexts)


def test_the_answer_is_the_best_of_all_windows_of_its_question():
    output = np.zeros((3, 4, 2))
    output[0, 1], output[1, 3], output[2, 2] = 1.0, 2.0, 1.0
    windows = windows_of([0, 0, 1], ("wxyz", "abcd"))
    assert tasks.qa().decode(output, windows) == ["z", "c"]


def test_no_answer_where_it_scores_above_every_span_in_every_window():
    output = np.zeros((3, 4, 2))
    output[:, 0], output[:, 2] = 3.0, 1.0
    windows = windows_of([0, 0, 1], ("wxyz", "abcd"))
    task = tasks.qa(unanswerable=True)
    assert task.decode(output, windows) == ["", ""]
    output[1, 0] = 0.5  # one window of the first question would rather answer
    assert task.decode(output, windows) == ["y", ""]
    assert tasks.qa().decode(output, windows) == ["y", "c"]


def test_an_answer_without_tokens_is_refused():
    with pytest.raises(ValueError, match="longest=0: an answer has at least one token"):
        tasks.qa(longest=0)


def test_a_row_without_an_allowed_token_is_finite_in_float16():
    """-1e9 is -inf there, of which a softmax over all tokens is NaN."""
    y = {"start": np.array([1, 0]), "end": np.array([1, 0]), "allowed": np.array([[1, 1, 0], [0, 0, 0]], bool)}
    found, wide = (tasks.span_loss(jnp.zeros((2, 3, 2), dtype), y) for dtype in (jnp.float16, jnp.float32))
    np.testing.assert_allclose(found[0], np.log(2), rtol=1e-6)
    np.testing.assert_array_equal(found, wide)
