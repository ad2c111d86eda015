"""Small vision transformers of transformers with random weights: references for tests."""

from typing import Any

from torch_resnets import randomise


def hf_dinov2(
    registers: int = 0,
    classes: int | None = 5,
    width: int = 12,
    depth: int = 2,
    heads: int = 3,
    image: int = 12,
    patch: int = 4,
    swiglu: bool = False,
) -> Any:
    """transformers' DINOv2, with registers where there are any; no classifier where there are no classes."""
    import transformers

    name = "Dinov2WithRegisters" if registers else "Dinov2"
    config = getattr(transformers, f"{name}Config")(
        hidden_size=width,
        num_hidden_layers=depth,
        num_attention_heads=heads,
        mlp_ratio=2,
        image_size=image,
        patch_size=patch,
        use_swiglu_ffn=swiglu,
        **({"num_register_tokens": registers} if registers else {}),
        **({"num_labels": classes} if classes else {}),
    )
    net = getattr(transformers, f"{name}ForImageClassification" if classes else f"{name}Model")
    return randomise(net(config)).eval()


def hf_deit(
    kind: str = "ForImageClassificationWithTeacher",
    classes: int = 5,
    width: int = 12,
    depth: int = 2,
    heads: int = 3,
    image: int = 12,
    patch: int = 4,
) -> Any:
    """transformers' distilled DeiT, of the class `kind`."""
    import transformers

    config = transformers.DeiTConfig(
        hidden_size=width,
        num_hidden_layers=depth,
        num_attention_heads=heads,
        intermediate_size=2 * width - 1,
        image_size=image,
        patch_size=patch,
        num_labels=classes,
    )
    return randomise(getattr(transformers, f"DeiT{kind}")(config)).eval()


def gradients(net: Any, folder: Any) -> None:
    """Saves the gradients of all parameters in the place of the parameters; zeros where there is none."""
    import torch

    for parameter in net.parameters():
        parameter.data = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
    net.save_pretrained(folder)


def hf_clip(
    width: int = 12,
    text_width: int = 8,
    projection: int = 6,
    depth: int = 2,
    heads: int = 2,
    end: int = 49,
    **vision: Any,
) -> Any:
    """transformers' CLIP of 12-pixel images in patches of 4, and texts of at most 9 of 50 tokens."""
    import transformers

    common = {"num_hidden_layers": depth, "num_attention_heads": heads}
    config = transformers.CLIPConfig(
        text_config={
            "hidden_size": text_width,
            "intermediate_size": 2 * text_width - 1,
            "vocab_size": 50,
            "max_position_embeddings": 9,
            "eos_token_id": end,
            "bos_token_id": 48,
            **common,
        },
        vision_config={
            "hidden_size": width,
            "intermediate_size": 2 * width - 1,
            "image_size": 12,
            "patch_size": 4,
            **common,
            **vision,
        },
        projection_dim=projection,
    )
    return randomise(transformers.CLIPModel(config)).eval()


def hf_siglip(width: int = 12, depth: int = 2, heads: int = 2, **vision: Any) -> Any:
    """transformers' SigLIP of 12-pixel images in patches of 4, and texts of 9 of 50 tokens."""
    import transformers

    common = {
        "hidden_size": width,
        "intermediate_size": 2 * width - 1,
        "num_hidden_layers": depth,
        "num_attention_heads": heads,
    }
    config = transformers.SiglipConfig(
        text_config={"vocab_size": 50, "max_position_embeddings": 9, **common},
        vision_config={"image_size": 12, "patch_size": 4, **common, **vision},
    )
    return randomise(transformers.SiglipModel(config)).eval()


def hf_swin(width: int = 6, depths: tuple = (2, 1), heads: tuple = (2, 3), **options: Any) -> Any:
    """transformers' Swin without dropped branches."""
    import transformers

    config = transformers.SwinConfig(
        embed_dim=width,
        depths=list(depths),
        num_heads=list(heads),
        drop_path_rate=0.0,
        num_labels=5,
        **options,
    )
    return randomise(transformers.SwinForImageClassification(config)).eval()
