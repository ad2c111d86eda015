"""LoRA at every module of every family of networks, at its full size and by shapes alone; LoHa and LoKr of some."""

import jax
import pytest

from jtl import peft
from jtl.backbones.registry import FAMILIES

DEFAULTS = {"cifar_resnet": {"depth": 20}, "mistral": {"sliding_window": None}}
DENSE = {  # the convolutions over time before these have kernels of one dimension, which LoRA refuses by name
    "wav2vec2": (r"block\d+/.*(query|key|value|out|up|down)", r"project.*"),
    "hubert": (r"block\d+/.*(query|key|value|out|up|down)", r"project.*"),
    "whisper": (r"block\d+/.*",),
}
MADE = {
    "lora": lambda where: peft.lora(2, where),
    "loha": lambda where: peft.loha(2, where, tucker=True),
    "lokr": lambda where: peft.lokr(2, where, both=True, tucker=True),
}
SOME = ("bert", "alexnet", "mobilenet_v2")
"""Dense layers, convolutions of large sides, and depthwise ones: the kinds of kernels that there are."""


@pytest.mark.slow
@pytest.mark.compiling
@pytest.mark.parametrize(
    ("name", "kind"),
    [*(("lora", kind) for kind in sorted(FAMILIES)), *((name, kind) for name in ("loha", "lokr") for kind in SOME)],
)
def test_an_adapter_stands_at_the_modules_of_a_family_and_merges_to_its_shapes(name, kind):
    family = FAMILIES[kind]
    config = family.complete(DEFAULTS.get(kind, {}), "timm" if kind == "mobilenet_v3" else "transformers")
    net, adapter = family.backbone(config), MADE[name](DENSE.get(kind, (".*",)))

    def run(key, x):
        base = net.init(key, x)
        adapted, variables = peft.attach(net, base, adapter, key)
        return base, variables, peft.merge(variables, adapter), adapted.apply(variables, x, train=False)[0]

    x = family.example(config)
    base, variables, merged, output = jax.eval_shape(run, jax.random.key(0), x)
    assert len(jax.tree.leaves(variables.params["adapter"])) >= 4
    assert merged == base
    assert output == jax.eval_shape(lambda v, x: net.apply(v, x, train=False)[0], base, x)
