r"""Names of distilled DeiTs: transformers' and timm's."""

from jtl.backbones.vit import names
from jtl.weights.mapping.layers import dense
from jtl.weights.mapping.rules import Rule


def transformers() -> list[Rule]:
    """Rules for transformers' DeiTModel and DeiTForImageClassificationWithTeacher."""
    body = [rule for rule in with_class_token() if not rule.pattern.startswith("classifier")]
    return [*body, *dense("cls_classifier", "head/out"), *dense("distillation_classifier", "head/distilled")]


def with_class_token() -> list[Rule]:
    """Rules for transformers' DeiTForImageClassification, which classifies only the class token."""
    token = Rule(r"(?:deit\.|)embeddings\.distillation_token", "backbone/distillation_token")
    return [*names.transformers("deit"), token]


def timm() -> list[Rule]:
    """Rules for timm's VisionTransformerDistilled and the `.pth` files of facebookresearch/deit."""
    top = r"(?:|module\.)"
    return [
        *names.timm(),
        Rule(rf"{top}dist_token", "backbone/distillation_token"),
        *dense(rf"{top}head_dist", "head/distilled"),
    ]
