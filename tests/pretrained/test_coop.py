"""CoOp against transformers' text towers, in whose embedding layer torch puts the same context."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pages
import pytest
from loading import channels_first, close, images

import jtl
from jtl.pretrained.coop import coop
from jtl.pretrained.load import load
from jtl.pretrained.save import save_description
from jtl.pretrained.zero_shot import zero_shot

COUNT, CLASSES, RATE = 3, 3, 10.0


def texts(kind="clip", end=24):
    """Three words that all classes share, and a name of one to three words, between CLIP's start and end."""
    rows = [[5, 9, 20, *name] for name in ([7], [11, 20], [2, 3, 4])]
    if kind == "siglip":
        return {"ids": np.array([[*row, 1, *[0] * (8 - len(row))] for row in rows], np.int32)}
    ids = [[end - 1, *row, *[end] * (8 - len(row))] for row in rows]
    return {"ids": np.array(ids, np.int32), "mask": np.arange(9)[None] < np.array([[6], [7], [8]])}


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """Of 16 numbers a word, 25 words, and images of 32 pixels."""
    folder = tmp_path_factory.mktemp("clip") / "clip"
    pages.clip(folder)
    return load(folder)


def logits(classifier, x, **head):
    params = {**classifier.variables.params, "head": {**classifier.variables.params["head"], **head}}
    return jax.jit(jtl.predictor(classifier.network))(classifier.variables._replace(params=params), x)


def theirs(torch, net, x, context):
    """The paper's classifier: a hook replaces the embeddings of the words, the rest is transformers'."""
    words = {name: torch.tensor(a.astype(np.int64)) for name, a in texts(net.config.model_type, 49).items()}
    first = 0 if net.config.model_type == "siglip" else 1
    own = context if context.ndim == 3 else context.expand(CLASSES, -1, -1)

    def replace(module, given, y):
        return torch.cat([y[:, :first], own, y[:, first + COUNT :]], 1)

    hook = net.text_model.embeddings.token_embedding.register_forward_hook(replace)
    more = {"attention_mask": words["mask"]} if "mask" in words else {}
    out = net(input_ids=words["ids"], pixel_values=channels_first(x), **more)
    hook.remove()
    return out


@pytest.mark.parametrize(("kind", "class_specific"), [("clip", False), ("siglip", True)])
def test_logits_and_steps_are_those_of_transformers_tower(kind, class_specific, tmp_path):
    """Logits, and two steps of SGD on the context alone; all other parameters of the head keep their bits.

    The steps are on features, which is lighter. The frozen text tower runs without the dropout of its config.
    """
    torch = pytest.importorskip("torch", reason="torch is the reference; it is installed for Python 3.11 only")
    pytest.importorskip("transformers")
    from torch_vits import hf_clip, hf_siglip

    net = hf_clip(depth=1) if kind == "clip" else hf_siglip(depth=1)
    net.config.text_config.attention_dropout = 0.3
    net.save_pretrained(tmp_path)
    learned = coop(load(tmp_path), texts(kind, 49), COUNT, class_specific=class_specific, key=jax.random.key(1))
    x, y = images((12, 12), 4), np.array([2, 0, 1, 2])
    context = torch.tensor(np.array(learned.variables.params["head"]["context"]), requires_grad=True)
    assert context.shape[:-1] == ((CLASSES, COUNT) if class_specific else (COUNT,))
    with torch.no_grad():
        out = theirs(torch, net, x, context)
    close(logits(learned, x), out.logits_per_image, 1e-5, "logits")
    light = jtl.network(backbone=jtl.backbones.identity(), head=learned.head)
    step = jtl.make_step(jtl.finetune(light), optax.sgd(RATE), trainable=jtl.select("head/context"))
    start = jtl.Variables({"backbone": {}, "head": jax.tree.map(jnp.array, learned.variables.params["head"])}, {})
    state = step.init(start, jax.random.key(0))
    optimizer = torch.optim.SGD([context], lr=RATE)
    for _ in range(2):
        state, _ = step(state, {"x": out.image_embeds.numpy(), "y": y})
        optimizer.zero_grad()
        now = theirs(torch, net, x, context).logits_per_image
        torch.nn.functional.cross_entropy(now, torch.tensor(y)).backward()
        optimizer.step()
    found, before = (jtl.flatten(v.params["head"]) for v in (jtl.variables(state), learned.variables))
    moved = context.detach().numpy() - before["context"]
    assert np.abs(moved).max() > 0.02
    close(found["context"] - before["context"], moved, 1e-4, "context")
    for path in before.keys() - {"context"}:
        np.testing.assert_array_equal(found[path], before[path], err_msg=path)


@pytest.mark.parametrize("class_specific", [False, True])
def test_a_context_of_words_starts_as_the_zero_shot_classifier_and_ends_as_one(clip, class_specific):
    x, draw = images((32, 32)), np.random.default_rng(0)
    learned = coop(clip, texts(), COUNT, ("ant", "bee", "wasp"), class_specific=class_specific)
    wanted = logits(zero_shot(clip, texts()), x)
    close(logits(learned, x), wanted, 1e-5, "start")
    shape = learned.variables.params["head"]["context"].shape
    trained = draw.normal(size=shape).astype(np.float32)
    after = logits(learned, x, context=trained)
    assert np.abs(after - wanted).max() > 1e-3 * np.abs(wanted).max()
    again = zero_shot(clip, texts(), learned.labels, context=trained.tolist())
    close(logits(again, x), after, 1e-5, "trained")
    assert (again.labels, sorted(again.variables.params["head"])) == (("ant", "bee", "wasp"), ["out"])
    shapes = jax.eval_shape(learned.network.init, jax.random.key(0), x)
    assert jax.tree.map(jnp.shape, shapes.params["head"]) == jax.tree.map(jnp.shape, learned.variables.params["head"])


def test_a_context_of_a_class_reaches_this_class_alone(clip):
    x, context = images((32, 32)), np.zeros((CLASSES, COUNT, 16), np.float32)
    learned = coop(clip, texts(), COUNT, class_specific=True)
    before = logits(learned, x, context=context)
    context = context.copy()  # jax may read the first one later, in place
    context[1] = np.random.default_rng(0).normal(size=(COUNT, 16))  # layer norms would take one number for all away
    moved = np.abs(logits(learned, x, context=context) - before).max(0)
    assert moved[1] > 1e-2
    assert moved[[0, 2]].max() < 1e-5 * np.abs(before).max()


def test_a_drawn_context_is_float32_of_the_papers_size(clip):
    half = clip._replace(variables=jax.tree.map(lambda a: a.astype(jnp.bfloat16), clip.variables))
    longer = {name: np.repeat(a, 40, 0) for name, a in texts().items()}
    drawn = coop(half, longer, COUNT, class_specific=True, key=jax.random.key(0)).variables.params["head"]["context"]
    assert drawn.dtype == np.float32
    np.testing.assert_allclose(drawn.std(), 0.02, rtol=0.05)
    assert coop(half, texts(), COUNT).variables.params["head"]["context"].dtype == np.float32


def other(x):
    """Another second word in the last text."""
    ids = x["ids"].copy()
    ids[2, 2] = 4
    return {**x, "ids": ids}


def adapted(clip):
    """With LoRA on both towers, which a tower alone would lose."""
    adapter = jtl.peft.lora(1, (".*/query",))
    return clip._replace(variables=jtl.peft.attach(clip.network, clip.variables, adapter, jax.random.key(0))[1])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda clip, x: coop(clip, x, 0), "count=0"),
        (lambda clip, x: coop(clip, x, 5), "count=5 of context, and the shortest text has 6 tokens"),
        (lambda clip, x: coop(clip, x, 4), "count=4 of"),
        (lambda clip, x: coop(clip, other(x), 3), r"the first 3 tokens differ .* as \[5, 9, 20\] and \[5, 4, 20\]"),
        (lambda clip, x: coop(clip, x, 3, ("ant",)), "1 labels"),
        (lambda clip, x: zero_shot(adapted(clip), x), "towers have adapters: give variables=jtl.peft.merge"),
        (
            lambda clip, x: save_description(Path("none"), coop(clip, x, 3)),
            r"head of \['context', 'log_scale', 'text'\]",
        ),
        (lambda clip, x: coop(clip, {n: a[None] for n, a in x.items()}, 3), r"ids of shape \(1, 3, 9\)"),
        (lambda clip, x: zero_shot(clip, x, context=np.zeros((3, 7))), r"a context of shape \(3, 7\)"),
        (lambda clip, x: zero_shot(clip, x, context=np.zeros((2, 3, 16))), r"a context of shape \(2, 3, 16\)"),
        (lambda clip, x: zero_shot(clip, x, context=np.zeros((6, 16))), "count=6"),
    ],
)
def test_mistakes_are_named(clip, call, message):
    with pytest.raises(ValueError, match=message):
        call(clip, texts())


def test_two_classes_of_the_same_tokens_are_named(clip):
    """As two long names are that are cut to one length; by numbers where there are no labels."""
    words = texts()
    cut = {name: a[[0, 1, 1]] for name, a in words.items()}
    with pytest.raises(ValueError, match="classes 'wasp' and 'wasp of the wood' have the same 7 tokens"):
        coop(clip, cut, COUNT, ["bee", "wasp", "wasp of the wood"])
    with pytest.raises(ValueError, match="classes 1 and 2 have"):
        coop(clip, cut, COUNT)
    coop(clip, cut, COUNT, class_specific=True)  # vectors of their own tell them apart
