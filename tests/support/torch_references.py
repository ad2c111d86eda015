"""Small networks of other libraries with random weights, saved by those libraries: references for tests."""

from typing import Any

from torch_resnets import randomise


def hf_resnet(kind: str, classes: int = 5, width: int = 8, depths: tuple = (2, 1, 2)) -> Any:
    """transformers' ResNet."""
    import transformers

    config = transformers.ResNetConfig(
        embedding_size=width,
        hidden_sizes=[width * 2**i * (4 if kind == "bottleneck" else 1) for i in range(len(depths))],
        depths=list(depths),
        layer_type=kind,
        num_labels=classes,
    )
    return randomise(transformers.ResNetForImageClassification(config)).eval()


def hf_vit(classes: int = 5, width: int = 24, depth: int = 3, heads: int = 4, image: int = 12, patch: int = 4) -> Any:
    """transformers' ViT."""
    import transformers

    config = transformers.ViTConfig(
        hidden_size=width,
        num_hidden_layers=depth,
        num_attention_heads=heads,
        intermediate_size=width * 2 - 8,
        image_size=image,
        patch_size=patch,
        num_labels=classes,
    )
    return randomise(transformers.ViTForImageClassification(config)).eval()


def hf_mobilenet_v2(classes: int = 5, width: float = 0.35, image: int = 32, **options: Any) -> Any:
    """transformers' MobileNetV2, which has no fewer than 17 blocks."""
    import transformers

    config = transformers.MobileNetV2Config(depth_multiplier=width, image_size=image, num_labels=classes, **options)
    return randomise(transformers.MobileNetV2ForImageClassification(config)).eval()
