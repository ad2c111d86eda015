"""Convolutional networks have as many parameters as torchvision's documentation says, with 1000 classes."""

from inspect import unwrap

import jax
import jax.numpy as jnp
import pytest

from jtl import backbones
from jtl.backbones.efficientnet_v2.network import V2Stage

pytestmark = [pytest.mark.slow, pytest.mark.compiling]  # parity of networks that rarely change, in `make test-all`

# (backbone, width of its pooled features, parameters, its features' sides for 224 pixels)
HALVES = {"stage1": 112, "stage2": 56, "stage3": 28, "stage4": 14, "stage5": 7, "last": 7}
QUARTERS = {"stage1": 56, "stage2": 28, "stage3": 14, "stage4": 7, "last": 7}
PUBLISHED = {
    "alexnet": (backbones.alexnet(), 4096, 61_100_840, {"stage1": 27, "stage2": 13, "stage3": 6, "last": 6}),
    "vgg11": (backbones.vgg(11), 4096, 132_863_336, HALVES),
    "vgg16_bn": (backbones.vgg(16, batch_norm=True), 4096, 138_365_992, HALVES),
    "convnext_tiny": (backbones.convnext("T"), 768, 28_589_128, QUARTERS),
    "convnext_base": (backbones.convnext("B"), 1024, 88_591_464, QUARTERS),
    "densenet121": (backbones.densenet(121), 1024, 7_978_856, QUARTERS),
    "resnext50_32x4d": (backbones.resnet(50, groups=32, width_per_group=4), 2048, 25_028_904, QUARTERS),
    "resnext101_64x4d": (backbones.resnet(101, groups=64, width_per_group=4), 2048, 83_455_272, QUARTERS),
    "wide_resnet50_2": (backbones.resnet(50, width_per_group=128), 2048, 68_883_240, QUARTERS),
    "resnet50d": (backbones.resnet(50, stem="deep", avg_down=True), 2048, 25_576_264, QUARTERS),
    "mobilenet_v3_large": (backbones.mobilenet_v3("large"), 1280, 5_483_032, HALVES),
    "mobilenet_v3_small": (backbones.mobilenet_v3("small"), 1024, 2_542_856, HALVES),
    "efficientnet_b0": (backbones.efficientnet("b0"), 1280, 5_288_548, HALVES),
    "efficientnet_b3": (backbones.efficientnet("b3", padding="same"), 1536, 12_233_232, HALVES),
    "efficientnet_v2_s": (backbones.efficientnet_v2("s"), 1280, 21_458_488, HALVES),
    "tf_efficientnetv2_b3": (backbones.efficientnet_v2("b3", padding="same"), 1536, 14_358_406, HALVES),
    "efficientnetv2_rw_s": (backbones.efficientnet_v2("rw_s", eps=1e-5), 1792, 23_941_296, HALVES),
    "efficientnet_b4": (backbones.efficientnet("b4", padding=()), 1792, 19_341_616, HALVES),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_size_is_the_published_one(key, name):
    net, pooled, count, sides = PUBLISHED[name]
    x = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)
    made, features = jax.eval_shape(lambda k, x: (v := net.init(k, x), net.apply(v, x, train=False)[0]), key, x)
    assert sum(a.size for a in jax.tree.leaves(made.params)) + 1000 * (pooled + 1) == count
    assert {n: f.shape[1] for n, f in features.items() if f.ndim == 4} == sides
    assert features["pooled"].shape == (1, pooled)


def v2(*measures):
    """An EfficientNetV2 of one stage."""
    return backbones.EfficientNetV2Size(8, (V2Stage(*measures),), 16)


# Without the tests' type checks, which would be the first to refuse some of these.
@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: unwrap(backbones.convnext)("M"), "size='M': give one of"),
        (lambda: backbones.convnext([(0, 8)]), "at least one block"),
        (lambda: backbones.convnext("T", drop_path=1.0), "drop_path=1.0"),
        (lambda: backbones.convnext("T", overlap=0), "overlap=0, patch=4"),
        (lambda: backbones.convnext("T", patch=2, overlap=8), "overlap=8, patch=2"),
        (lambda: backbones.vgg(12), "depth=12: give one of"),
        (lambda: backbones.vgg(11, dropout=1.0), "dropout=1.0"),
        (lambda: backbones.alexnet(widths=(8, 8)), r"widths=\(8, 8\)"),
        (lambda: unwrap(backbones.efficientnet)("b8"), "size='b8': give one of"),
        (lambda: backbones.efficientnet((0, 1)), "width=0: must be positive"),
        (lambda: unwrap(backbones.efficientnet)("b0", padding="half"), "padding='half'"),
        (lambda: unwrap(backbones.efficientnet_v2)("b4"), "size='b4': give one of"),
        (lambda: unwrap(backbones.efficientnet_v2)("s", padding="half"), "padding='half': give 'torch' or 'same'"),
        (lambda: backbones.efficientnet_v2("s", drop_path=1.0), "drop_path=1.0"),
        (lambda: backbones.efficientnet_v2(v2("fused", 4, 8, 0, 1)), "at least one block"),
        (
            lambda: backbones.efficientnet_v2(v2("conv", 4, 8, 1, 1)),
            "expansion=4: it is 1 in blocks of the kind",
        ),
        (lambda: unwrap(backbones.efficientnet_v2)(v2("edge", 4, 8, 1, 1)), "kind='edge': give one of"),
        (lambda: unwrap(backbones.mobilenet_v3)("tiny"), "size='tiny': give one of"),
        (lambda: backbones.mobilenet_v3("small", 0), "width=0: must be positive"),
        (lambda: unwrap(backbones.mobilenet_v3)("small", scaling="tf"), "scaling='tf': give 'torchvision' or 'timm'"),
        (lambda: unwrap(backbones.resnet)(50, stem="c"), "stem='c': give 'imagenet', 'deep', 'tiered' or 'cifar'"),
        (lambda: backbones.resnet(50, stem_width=32), "stem_width=32 with stem='imagenet'"),
        (lambda: backbones.resnet(50, stem="deep", stem_width=0), "stem_width=0: give at least 1"),
        (lambda: backbones.resnet(50, stem="tiered", stem_width=3), "stem_width=3: give at least 4"),
        (lambda: backbones.resnet(18, groups=2), "groups=2, width_per_group=64: only blocks with bottlenecks"),
        (lambda: backbones.resnet(50, width=8, groups=2, width_per_group=4), "groups=2, .*no channels at width=8"),
        (lambda: backbones.densenet(100), "depth=100: give one of"),
        (lambda: backbones.densenet(backbones.DenseSize(4, (), 4)), "at least one layer"),
    ],
)
def test_bad_sizes_are_named(build, message):
    with pytest.raises(ValueError, match=message):
        build()


@pytest.mark.parametrize(
    ("net", "smallest"),
    [(backbones.alexnet(hidden=8), 63), (backbones.vgg(11, hidden=8), 32), (backbones.densenet(121), 29)],
)
def test_too_small_images_are_refused(key, net, smallest):
    """And the smallest that are not leave one pixel."""

    def last(side):
        x = jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32)
        return jax.eval_shape(lambda k, x: net.apply(net.init(k, x), x, train=False)[0]["last"], key, x)

    assert last(smallest).shape[1:3] == (1, 1)
    with pytest.raises(ValueError, match=f"at least {smallest}x{smallest}"):
        last(smallest - 1)
