"""What networks cost, against closed forms and published numbers."""

import jax
import jax.numpy as jnp
import pytest

from jtl import backbones
from jtl.backbones.registry import FAMILIES
from jtl.pretrained import catalogue, cost
from jtl.pretrained.presets import architecture


def test_a_perceptron_by_its_formula():
    model = backbones.mlp((7, 5))
    example = jax.ShapeDtypeStruct((3, 11), jnp.float32)
    assert cost.flops(model, example) == 2 * 3 * (11 * 7 + 7 * 5)
    assert cost.parameters(model, example) == 11 * 7 + 7 + 7 * 5 + 5


def test_a_grouped_convolution_counts_its_group_alone():
    def apply(variables, x, *, train, key=None):
        out = jax.lax.conv_general_dilated(
            x,
            jnp.zeros((3, 3, 2, 8)),
            (2, 2),
            "SAME",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=2,
        )
        return {"pooled": out.mean((1, 2))}, {}

    from jtl.model import Model, Variables

    model = Model(lambda key, x: Variables({}, {}), apply)
    assert cost.flops(model, jax.ShapeDtypeStruct((1, 6, 6, 4), jnp.float32)) == 2 * 3 * 3 * 8 * 3 * 3 * 2


def test_loops_count_as_often_as_they_run():
    from jtl.model import Model, Variables

    def apply(variables, x, *, train, key=None):
        step = jax.checkpoint(lambda h, _: (jnp.tanh(h @ jnp.ones((4, 4))), None))
        return {"pooled": jax.jit(lambda h: jax.lax.scan(step, h, None, length=9)[0])(x)}, {}

    model = Model(lambda key, x: Variables({}, {}), apply)
    assert cost.flops(model, jax.ShapeDtypeStruct((2, 4), jnp.float32)) == 9 * 2 * 2 * 4 * 4


@pytest.mark.parametrize(
    ("name", "parameters", "products"),
    [
        # By hand: 3x3 convolutions of 16, 32, 64 channels on 32x32, 16x16, 8x8; 0.27 million, and 10 classes of 64.
        ("cifar_resnet20", 269_722 - 650, 40_550_400),
        # By hand: 12 blocks of 12 square matrices and two products of 128 by 128. `pooled` does not need the logits.
        ("gpt2", 124_439_808, 12 * (12 * 768**2 * 128 + 2 * 128**2 * 768)),
        # By hand: patches; 12 blocks of 12 square matrices and two products of 197 by 197.
        ("vit_tiny_patch16_224", 5_524_416, 196 * 768 * 192 + 12 * (12 * 192**2 * 197 + 2 * 197**2 * 192)),
    ],
)
def test_published_sizes(name, parameters, products):
    """Parameters as PyTorch counts them, without the classifier."""
    line = next(line for line in catalogue.lines(name) if line.name == name)  # "gpt2" is a family too
    assert (line.parameters, line.flops) == (parameters, 2 * products)


def test_images_that_are_resized_and_not_cut_count_in_that_size():
    (line,) = catalogue.lines("tf_efficientnetv2_m")
    assert (line.shape, line.parameters) == ("384x384x3", 54_139_356 - 1_281_000)  # torchvision's count, and its head's


def test_every_family_is_listed_with_its_sources():
    assert {kind for kind, _ in catalogue.names()} == set(FAMILIES)
    (line,) = catalogue.lines("cifar_resnet20")
    assert line == ("cifar_resnet", "cifar_resnet20", line.parameters, line.flops, "32x32x3", ("akamaster",))
    heading, row = catalogue.table(iter([line]))
    assert heading.split()[:3] == ["family", "name", "parameters"]
    assert row.split()[:2] == ["cifar_resnet", "cifar_resnet20"]
    with pytest.raises(ValueError, match="no network is named 'resnet51'; there are resnet18"):
        list(catalogue.lines("resnet51"))


def test_every_published_size_is_listed_and_found_again():
    """A network of which the measures alone are known is written under the name that timm has for them."""
    named = {name for _, name in catalogue.names()}
    efficientnets = [f"{by}efficientnet_b{i}" for by in ("", "tf_") for i in range(8)]
    deits = [f"deit_{size}_patch16_224" for size in ("tiny", "small", "base")] + ["deit_base_patch16_384"]
    deits += [name.replace("_patch", "_distilled_patch") for name in deits]
    assert named >= {*efficientnets, *deits}
    family = FAMILIES["efficientnet"]
    for name in efficientnets:
        config = family.named(name, {})
        assert config is not None
        assert architecture(family, family.complete(config, "timm"), "timm") == (name, {})
