"""Small convolutional networks of transformers with random weights: references."""

from typing import Any

from torch_resnets import randomise


def hf_convnext(depths=(2, 1), widths=(6, 10), **options: Any) -> Any:
    """transformers' ConvNeXt."""
    import transformers

    config = transformers.ConvNextConfig(depths=list(depths), hidden_sizes=list(widths), num_labels=5, **options)
    config.num_stages = len(depths)
    return randomise(transformers.ConvNextForImageClassification(config)).eval()


def hf_bit(depths=(2, 1), widths=(16, 40), groups=4, stem=8) -> Any:
    """transformers' BiT."""
    import transformers

    config = transformers.BitConfig(
        depths=list(depths), hidden_sizes=list(widths), num_groups=groups, embedding_size=stem, num_labels=5
    )
    return randomise(transformers.BitForImageClassification(config)).eval()


def hf_efficientnet(width: float, depth: float, **options: Any) -> Any:
    """transformers' EfficientNet without dropout, its normalisations as fast as torch's usually are."""
    import transformers

    config = transformers.EfficientNetConfig(
        width_coefficient=width,
        depth_coefficient=depth,
        batch_norm_momentum=0.1,
        drop_connect_rate=0.0,
        dropout_rate=0.0,
        num_labels=5,
        **options,
    )
    return randomise(transformers.EfficientNetForImageClassification(config)).eval()
