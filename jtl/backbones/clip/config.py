"""CLIP and SigLIP: both towers, or one of them."""

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal, TypeVar

from jtl.backbones.clip import names as maps
from jtl.backbones.clip import names_open_clip
from jtl.backbones.clip.network import clip_image, clip_text
from jtl.backbones.config import Config, Range, Rate, TransformerConfig, Vocabulary, Whole
from jtl.backbones.family import Family, picture, sentence
from jtl.backbones.siglip.network import siglip_image, siglip_text
from jtl.model import Model
from jtl.nn.two_towers import normalised, two_towers
from jtl.weights.formats.errors import show
from jtl.weights.mapping.rules import Rule

BARE = "transformers, without a projection"
"""The naming of a file with one of CLIP's towers, without the projection to the common space."""


class _TowerConfig(TransformerConfig):
    layer_norm_eps: Rate = 1e-5
    attention_dropout: Rate = 0.0
    normalised: bool | None = None
    """jtl's own entry: whether the tower's output is scaled to length 1."""


class _ImageConfig(_TowerConfig):
    image_size: Whole = 224
    patch_size: Whole = 16
    num_channels: Whole = 3


class _TextConfig(_TowerConfig):
    vocab_size: Vocabulary
    max_position_embeddings: Whole


class _ClipConfig(_TowerConfig):
    hidden_act: Literal["quick_gelu", "gelu"] = "quick_gelu"
    projection_dim: Whole = 512
    with_projection: bool | None = None

    @classmethod
    def _fill(cls, given: Mapping[str, Any], naming: str) -> Mapping[str, Any]:
        return {**given, "with_projection": False} if naming == BARE else given

    @property
    def projection(self) -> int | None:
        """Width of the common space; None for a tower without a projection to it."""
        return None if self.with_projection is False else self.projection_dim


class _SiglipConfig(_TowerConfig):
    hidden_act: Literal["gelu_pytorch_tanh"] = "gelu_pytorch_tanh"
    layer_norm_eps: Rate = 1e-6


class ClipVisionConfig(_ClipConfig, _ImageConfig, model_type="clip_vision_model"):
    """The config of CLIP's image tower."""

    patch_size: Whole = 32


class ClipTextConfig(_ClipConfig, _TextConfig, model_type="clip_text_model"):
    """The config of CLIP's text tower."""

    hidden_size: Whole = 512
    num_attention_heads: Whole = 8
    intermediate_size: Whole = 2048
    vocab_size: Vocabulary = 49408
    max_position_embeddings: Whole = 77
    is_causal: Literal[True] = True
    eos_token_id: Annotated[int, Range(0, 1 << 24)] = 49407


class SiglipVisionConfig(_SiglipConfig, _ImageConfig, model_type="siglip_vision_model"):
    """The config of SigLIP's image tower."""

    vision_use_head: Literal[True] = True


class SiglipTextConfig(_SiglipConfig, _TextConfig, model_type="siglip_text_model"):
    """The config of SigLIP's text tower."""

    vocab_size: Vocabulary = 32000
    max_position_embeddings: Whole = 64
    projection_size: Whole | None = None

    @property
    def projection(self) -> int:
        """Width of the common space."""
        return self.projection_size or self.hidden_size


class _BothConfig(Config):
    towers: ClassVar[Mapping[str, type[_TowerConfig]]]

    @classmethod
    def _fill(cls, given: Mapping[str, Any], naming: str) -> Mapping[str, Any]:
        if given.get("architectures") in (["CLIPForImageClassification"], ["SiglipForImageClassification"]):
            raise ValueError(
                f"{given['architectures'][0]} classifies the mean of an image tower's patches and is not read, only "
                "the tower: give arch= what its config.json has as 'vision_config', with "
                rf"model_type='{cls.model_type}_vision_model', and unused=('classifier\\..*',)"
            )
        made = dict(given)
        for name, tower in cls.towers.items():
            first = made.get(name) or {}
            later = made.pop(f"{name}_dict", None)  # in old files, where it takes precedence
            for value in (first, {} if later is None else later):
                if not isinstance(value, Mapping):
                    raise ValueError(f"{name}={show(str(value))}: give names and values")
            usual = {} if later is None else {**tower().to_dict(), **later}
            both = {"projection_dim": made["projection_dim"]} if issubclass(tower, _ClipConfig) else {}
            made[name] = {**first, **usual, **both, "model_type": tower.model_type}
        return made


class ClipConfig(_BothConfig, model_type="clip"):
    """The config of CLIP's two towers."""

    towers = {"text_config": ClipTextConfig, "vision_config": ClipVisionConfig}
    projection_dim: Whole = 512
    text_config: ClipTextConfig
    vision_config: ClipVisionConfig

    @classmethod
    def _fill(cls, given: Mapping[str, Any], naming: str) -> Mapping[str, Any]:
        return super()._fill({"projection_dim": 512, **given}, naming)


class SiglipConfig(_BothConfig, model_type="siglip"):
    """The config of SigLIP's two towers."""

    towers = {"text_config": SiglipTextConfig, "vision_config": SiglipVisionConfig}
    text_config: SiglipTextConfig
    vision_config: SiglipVisionConfig

    def _check(self) -> None:
        text, image = self.text_config.projection, self.vision_config.hidden_size
        if text != image:
            raise ValueError(f"siglip with projection_size={text} of its texts is not read, only with {image}")


def _measures(config: _ImageConfig | _TextConfig) -> dict[str, Any]:
    if isinstance(config, _ImageConfig):
        own = {"patch": config.patch_size, "image": config.image_size}
    else:
        own = {"vocabulary": config.vocab_size, "positions": config.max_position_embeddings}
    return {**own, "size": config.size, "eps": config.layer_norm_eps, "attention_dropout": config.attention_dropout}


def _clip_image(config: ClipVisionConfig) -> Model:
    return clip_image(**_measures(config), activation=config.hidden_act, projection=config.projection)


def _clip_text(config: ClipTextConfig) -> Model:
    # As in transformers: the configs of the first releases say 2, which is wrong.
    end = None if config.eos_token_id == 2 else config.eos_token_id
    return clip_text(**_measures(config), activation=config.hidden_act, projection=config.projection, end=end)


def _siglip_image(config: SiglipVisionConfig) -> Model:
    return siglip_image(**_measures(config))


def _siglip_text(config: SiglipTextConfig) -> Model:
    return siglip_text(**_measures(config), projection=config.projection)


def _example(config: _TowerConfig) -> Any:
    if isinstance(config, _ImageConfig):
        return picture(config.image_size, config.num_channels)
    return sentence(config.max_position_embeddings) if isinstance(config, _TextConfig) else None


C = TypeVar("C", bound=_TowerConfig)


def _tower(
    config: type[C], bare: str, backbone: Callable[[C], Model], table: Callable[[str, str], list[Rule]]
) -> Family[C]:
    """One tower; `bare` is transformers' class without a projection, `table(path, prefix)` makes the name table."""
    part = "vision_model" if issubclass(config, _ImageConfig) else "text_model"

    def projects(config: C) -> bool:
        return isinstance(config, _ClipConfig) and config.projection is not None

    def tables(config: C) -> dict[str, Sequence[Rule]]:
        # Without a projection there is nothing next to the tower, and since version 5 transformers writes no prefix.
        top = rf"(?:{part}\.|)" if projects(config) else rf"(?:|{part}\.)"
        rules = table("backbone", top)
        if not isinstance(config, _ClipConfig):
            return {"transformers": rules}
        return {BARE: [rule for rule in rules if rule.path != "backbone/projection/kernel"], "transformers": rules}

    return Family(
        config=config,
        backbone=lambda config: normalised(backbone(config)) if config.normalised else backbone(config),
        example=_example,
        tables=tables,
        bare=lambda config: f"{bare}WithProjection" if projects(config) else bare,
        depth=("num_hidden_layers",),
    )


def _both_examples(config: ClipConfig | SiglipConfig) -> Any:
    return {"image": _example(config.vision_config), "text": _example(config.text_config)}


def _both_blocks(config: ClipConfig | SiglipConfig) -> int:
    return config.vision_config.num_hidden_layers + config.text_config.num_hidden_layers


def _tables_clip(config: ClipConfig) -> dict[str, Sequence[Rule]]:
    del config
    image = maps.clip_image("backbone/image", r"vision_model\.")
    text = maps.clip_text("backbone/text", r"text_model\.")
    theirs = [*maps.scale(), *names_open_clip.clip()]
    return {"transformers": [*maps.scale(), *image, *text], "open_clip": theirs}


def _tables_siglip(config: SiglipConfig) -> dict[str, Sequence[Rule]]:
    del config
    image = maps.siglip_image("backbone/image", r"vision_model\.")
    text = maps.siglip_text("backbone/text", r"text_model\.")
    return {"transformers": [*maps.scale_of_siglip(), *image, *text]}


FAMILIES = (
    Family(
        config=ClipConfig,
        backbone=lambda both: two_towers(_clip_image(both.vision_config), _clip_text(both.text_config), bias=False),
        example=_both_examples,
        tables=_tables_clip,
        bare=lambda config: "CLIPModel",
        blocks=_both_blocks,
    ),
    Family(
        config=SiglipConfig,
        backbone=lambda both: two_towers(_siglip_image(both.vision_config), _siglip_text(both.text_config), bias=True),
        example=_both_examples,
        tables=_tables_siglip,
        bare=lambda config: "SiglipModel",
        blocks=_both_blocks,
    ),
    _tower(ClipVisionConfig, "CLIPVisionModel", _clip_image, maps.clip_image),
    _tower(ClipTextConfig, "CLIPTextModel", _clip_text, maps.clip_text),
    _tower(SiglipVisionConfig, "SiglipVisionModel", _siglip_image, maps.siglip_image),
    _tower(SiglipTextConfig, "SiglipTextModel", _siglip_text, maps.siglip_text),
)
