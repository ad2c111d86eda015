"""Numbers that public functions refuse where they are given: NaN and infinity, bools, and counts that are none."""

from functools import partial
from inspect import unwrap

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jaxtyping import TypeCheckError

import jtl
from jtl import backbones, data, heads, optim
from jtl.data import appearance, augment, mixing, policies, spectrograms, waves
from jtl.data.processes import processes
from jtl.nn.sizes import check_size
from jtl.train.parallel import distributed

NAN, INF = float("nan"), float("inf")
COUNT = (NAN, INF, -1, 1.5, True)
NUMBER = (NAN, INF, True)
STEPS, START = (NAN, INF, -1, True), (NAN, 0.5, True)
"""A count must be an integer; any number must be finite. In tests alone the types of arguments are checked too: the
functions are called without that, and what they call refuses it by its type."""


def named(call):
    return call.args[0].__name__ if isinstance(call, partial) else call.__qualname__


def built(make, x, **numbers):
    """Builds a network with these numbers, and asks for the shapes of its parameters, which builds its layers."""
    return jax.eval_shape(unwrap(make)(**numbers).init, jax.random.key(0), x)


X, Y, PHOTO = np.zeros((4, 3), np.float32), np.array([0, 1, 0, 1]), np.zeros((1, 4, 4, 3), np.uint8)
TEXTS = {"ids": np.ones((4, 32), int), "mask": np.ones((4, 32), bool)}
KEYS, BANK = jax.random.split(jax.random.key(0), 2), data.bank(np.zeros((9, 2)), np.arange(9) % 3)
FEW = {"way": 2, "shot": 1, "query": 1}
BOTH = {"mean": NUMBER, "std": (0.0, *NUMBER)}
SIZE, IMAGE = backbones.Size(8, 1, 2, 16), jnp.zeros((1, 32, 32, 3))
TOKENS = {"ids": jnp.zeros((1, 4), jnp.int32), "mask": jnp.ones((1, 4), bool)}
MOBILE = dict.fromkeys(("width", "depth", "eps", "momentum", "drop_path"), NUMBER)
DINO = {"layer_scale": NUMBER, "registers": COUNT}
TEXT = {"end": COUNT, "projection": (0, *COUNT), "vocabulary": COUNT, "positions": COUNT}
VIT = {"patch": COUNT, "image": COUNT, "eps": NUMBER, "dropout": NUMBER, "attention_dropout": NUMBER}
PARAMS = {"stem": jnp.zeros(2), "block1": jnp.zeros(2)}
CASES = [
    (optim.layer_decay, {"params": PARAMS, "order": ["stem", "block1"]}, {"rate": NUMBER}),
    (optim.annealed, {"learning_rate": 1.0, "total_steps": 9}, {"gain": NUMBER, "power": NUMBER, "total_steps": STEPS}),
    (optim.warmup_cosine, {"learning_rate": 1.0, "total_steps": 9}, {"warmup": NUMBER, "total_steps": STEPS}),
    (optim.one_cycle, {"learning_rate": 1.0, "total_steps": 9}, {"start": START, "end": START, "total_steps": STEPS}),
    (optim.steps, {"learning_rate": 1.0, "at": [9]}, {"warmup": (0.1, *COUNT), "factor": NUMBER}),
    (lambda step: unwrap(optim.steps)(1.0, [step, 9]), {}, {"step": COUNT}),
    (lambda step: unwrap(optim.restarted)(optax.sgd(1.0), [step, 9]), {}, {"step": COUNT}),
    (lambda height: unwrap(optim.bit_hyper_rule)(9, (height, 9)), {}, {"height": COUNT}),
    (optim.bit_hyper_rule, {"examples": 9, "size": (9, 9)}, {"examples": COUNT, "learning_rate": NUMBER}),
    (heads.linear, {"classes": 3}, {"classes": COUNT, "dropout": NUMBER}),
    (heads.per_position, {"classes": 3}, {"classes": COUNT, "dropout": NUMBER}),
    (heads.averaged, {}, {"classes": COUNT}),
    (heads.bridged, {}, {"classes": COUNT}),
    (lambda width: unwrap(heads.mlp)(3, (width,)), {}, {"width": COUNT}),
    (heads.cosine, {"classes": 3}, {"temperature": NUMBER}),
    (data.arrays, {"x": X, "batch_size": 2}, {"batch_size": COUNT, "seed": COUNT}),
    (data.arrays, {"x": X, "y": Y, "batch_size": 2}, {"ignore": (NAN, INF, 0.5, True)}),
    (lambda step: data.arrays(X, batch_size=2)[step], {}, {"step": (1.5, NAN, INF)}),
    (lambda step: data.sinusoids(shot=1, query=1, tasks=2)[step], {}, {"step": (1.5, NAN, INF)}),
    (processes, {"index": 0, "count": 1}, {"index": COUNT, "count": (0, *COUNT)}),
    (data.balanced, {"data": data.arrays(X, batch_size=2), "labels": Y}, {"power": NUMBER}),
    (data.corrupt, {"images": PHOTO, "name": "contrast", "severity": 1}, {"severity": COUNT, "seed": (None, *COUNT)}),
    (data.split, {"data": data.arrays(X, batch_size=2), "shares": {"val": 0.5}}, {"seed": (None, *COUNT)}),
    (data.split_classes, {"classes": 9, "sizes": (3, 3)}, {"classes": COUNT, "seed": (None, *COUNT)}),
    (lambda size: unwrap(data.split_classes)(9, (size, 2)), {}, {"size": COUNT}),
    (data.sample, {"keys": KEYS, "x": np.zeros((3, 5, 2)), **FEW}, dict.fromkeys(FEW, (0, *COUNT))),
    (data.sample_varied, {"keys": KEYS, "source": BANK, **FEW, "largest": 4}, {"query": (0, *COUNT), "largest": COUNT}),
    (data.sample_sinusoids, {"keys": KEYS, "shot": 1, "query": 1}, {"shot": (0, *COUNT), "query": (0, *COUNT)}),
    (data.by_length, {"x": TEXTS, "batch_size": 2}, {"shortest": COUNT, "seed": COUNT}),
    (data.prefetch, {"dataset": []}, {"ahead": COUNT, "threads": COUNT}),
    (data.files, {"paths": [], "batch_size": 2}, {"size": COUNT}),
    (augment.flip, {}, {"probability": NUMBER}),
    (augment.crop, {"size": 4}, {"size": COUNT, "padding": COUNT}),
    (augment.rotate, {}, {"degrees": NUMBER}),
    (augment.noise, {}, {"std": NUMBER}),
    (lambda mean, std: unwrap(augment.normalise)([mean], [std]), {"mean": 0.5, "std": 1.0}, BOTH),
    (augment.resized_crop, {"size": 4}, {"size": COUNT}),
    (appearance.jitter, {"brightness": 0.1}, {"brightness": NUMBER, "contrast": NUMBER, "saturation": NUMBER}),
    (appearance.erase, {}, {"probability": NUMBER, "value": NUMBER, "ratio": ((0.3, INF), (NAN, 1.0))}),
    (appearance.spec_augment, {"frequency": 2, "time": 2}, {"frequency": COUNT, "time": COUNT, "value": NUMBER}),
    (appearance.spec_augment, {"frequency": 2, "time": 2}, {"frequency_masks": COUNT, "time_masks": COUNT}),
    (appearance.mask_patches, {"patch": 2, "ratio": 0.5}, {"patch": (0, *COUNT), "ratio": NUMBER, "value": NUMBER}),
    (waves.speed, {}, {"slowest": (0, *NUMBER), "fastest": NUMBER}),
    (waves.shift, {}, {"longest": (0, *COUNT)}),
    (waves.gain, {}, {"decibels": (0, *NUMBER)}),
    (waves.noise, {"lowest": 1, "highest": 2}, {"lowest": NUMBER, "highest": NUMBER}),
    (spectrograms.speed, {"rate": 8000}, {"rate": (0, *COUNT), "slowest": (0, *NUMBER), "fastest": NUMBER}),
    (spectrograms.shift, {}, {"longest": (0, *COUNT)}),
    (mixing.mixup, {"alpha": 0.1, "classes": 3}, {"alpha": NUMBER, "classes": (1, *COUNT)}),
    (mixing.cutmix, {"alpha": 0.1, "classes": 3}, {"alpha": NUMBER, "classes": (1, *COUNT)}),
    (mixing.half_of_classes, {"key": jax.random.key(0), "y": PHOTO[..., 0]}, {"classes": (0, *COUNT)}),
    (policies.rand_augment, {}, {"operations": COUNT, "bins": COUNT, "magnitude": (NAN, INF, -1)}),
    (policies.trivial_augment, {}, {"bins": COUNT}),
    (partial(built, backbones.conv4, IMAGE), {"filters": 8}, {"filters": COUNT, "momentum": NUMBER}),
    (partial(built, backbones.resnet, IMAGE), {"depth": [1], "width": 8}, {"momentum": NUMBER, "drop_path": NUMBER}),
    (partial(built, backbones.mobilenet_v2, IMAGE), {"width": 0.1, "depth": 0.1}, MOBILE),
    (partial(built, backbones.vit, IMAGE), {"size": SIZE, "patch": 8, "image": 32}, VIT),
    (partial(built, backbones.dinov2, IMAGE), {"size": SIZE, "patch": 8, "image": 32}, DINO),
    (partial(built, backbones.clip_text, None), {"size": SIZE}, TEXT),
    (partial(built, backbones.llama, TOKENS), {"size": SIZE, "vocabulary": 9}, {"vocabulary": COUNT, "eps": NUMBER}),
    (lambda depth: check_size(SIZE._replace(depth=depth)), {}, {"depth": COUNT}),
    (jtl.peft.lora, {"rank": 2, "where": (".*",)}, {"rank": (0, *COUNT), "alpha": (0.0, -1, *NUMBER)}),
    (jtl.peft.adalora, {"rank": 2, "where": (".*",)}, {"rank": (0, *COUNT), "alpha": (0.0, -1, *NUMBER)}),
    (
        jtl.peft.budgeted,
        {"tx": optax.sgd(1.0), "target": 2, "total_steps": 9},
        {"target": (0, *COUNT), "warmup": COUNT, "every": (0, *COUNT), "beta1": (0, 1, *NUMBER), "beta2": NUMBER},
    ),
    (jtl.peft.hra, {"rank": 2, "where": (".*",)}, {"rank": (0, *COUNT)}),
    (
        jtl.peft.fourierft,
        {"frequencies": 2, "where": (".*",)},
        {"frequencies": (0, *COUNT), "scale": (0.0, -1, *NUMBER), "seed": COUNT},
    ),
    (jtl.peft.orthogonality, {}, {"weight": (-1, *NUMBER)}),
    (jtl.peft.loha, {"rank": 2, "where": (".*",)}, {"rank": (0, *COUNT), "alpha": (0.0, -1, *NUMBER)}),
    (jtl.peft.lokr, {"rank": 2, "where": (".*",)}, {"rank": (0, *COUNT), "factor": (0, *COUNT)}),
    (jtl.mesh, {}, {"data": COUNT, "fsdp": (0, *COUNT)}),
    (jtl.fsdp, {}, {"min_bytes": (NAN, -1, True)}),
    (distributed.initialize, {"coordinator": "x:1", "processes": 2, "process": 0}, {"process": COUNT}),
    (distributed.initialize, {"coordinator": "x:1", "processes": 2, "process": 0}, {"processes": COUNT}),
]


@pytest.mark.parametrize(
    ("call", "given", "bad"),
    [
        pytest.param(call, given, {name: value}, id=f"{named(call)}-{name}={value}")
        for call, given, names in CASES
        for name, values in names.items()
        for value in values
    ],
)
def test_a_number_that_is_none_is_refused(call, given, bad):
    told = "|".join([*bad, "as an integer", "Type-check"])  # the argument's name, or Python's own words of an index
    with pytest.raises((ValueError, TypeError, TypeCheckError), match=told):
        unwrap(call)(**{**given, **bad})


@pytest.mark.parametrize("three", [np.int32(3), np.array(3), jnp.int32(3), 3.0], ids=lambda three: type(three).__name__)
def test_a_number_of_steps_may_be_computed(three):
    rates = [unwrap(optim.warmup_cosine)(1.0, total)(2) for total in (three, 3)]
    assert rates[0] == rates[1]


def test_numbers_of_other_kinds_are_taken():
    assert float(unwrap(optim.steps)(jnp.bfloat16(0.5), [500.0, 750.0])(600)) == pytest.approx(0.05)
    assert float(unwrap(optim.one_cycle)(1.0, 10, end=INF)(9)) == 0
    mean = jnp.array([0.1, 0.2, 0.3])
    erased = unwrap(appearance.erase)(1.0, value=mean)(jax.random.key(0), jnp.ones((1, 8, 8, 3)))
    assert set(map(tuple, np.unique(np.reshape(erased, (-1, 3)), axis=0).tolist())) == {(1, 1, 1), tuple(mean.tolist())}
    first, again, other = (unwrap(data.split_classes)(9, (3, 3), seed=seed) for seed in ([1, 2], [1, 2], [1, 3]))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
