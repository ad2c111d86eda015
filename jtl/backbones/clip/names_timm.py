r"""Names of the image towers of CLIP and SigLIP in timm, where they are vision transformers with other options."""

from jtl.backbones.vit import names
from jtl.weights.mapping.layers import dense, norm
from jtl.weights.mapping.rules import Rule


def clip() -> list[Rule]:
    """Rules for a tower with a normalisation before the first block."""
    return [*names.timm(), *norm("norm_pre", "backbone/first_norm")]


def siglip_gap() -> list[Rule]:
    """Rules for a tower whose patches are averaged."""
    return names.timm()


def siglip() -> list[Rule]:
    """Rules for a tower that is pooled by attention; the pooling's keys and values are one layer."""
    pool, path = "attn_pool", "backbone/pool"
    return [
        *names.timm(),
        Rule(rf"{pool}\.latent", f"{path}/query"),
        *dense(rf"{pool}\.q", f"{path}/attention/query"),
        *names.fused(rf"{pool}\.kv", f"{path}/attention", ("key", "value")),
        *dense(rf"{pool}\.proj", f"{path}/attention/out"),
        *norm(rf"{pool}\.norm", f"{path}/norm"),
        *dense(rf"{pool}\.mlp\.fc1", f"{path}/mlp/up"),
        *dense(rf"{pool}\.mlp\.fc2", f"{path}/mlp/down"),
    ]
