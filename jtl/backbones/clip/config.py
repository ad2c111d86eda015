"""CLIP and SigLIP: both towers, or one of them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
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
"""The naming of a file of one of CLIP's towers that ends before the common space."""


@dataclass(frozen=True, kw_only=True)
class _TowerConfig(TransformerConfig):
    """What the towers have in common; `normalised` is jtl's word for one whose output has a length of 1."""

    attention_dropout: Rate = 0.0
    normalised: bool | None = None


@dataclass(frozen=True, kw_only=True)
class _ImageConfig(_TowerConfig):
    image_size: Whole = 224
    num_channels: Whole = 3


@dataclass(frozen=True, kw_only=True)
class _ClipConfig(_TowerConfig):
    hidden_act: Literal["quick_gelu", "gelu"] = "quick_gelu"
    layer_norm_eps: Rate = 1e-5
    projection_dim: Whole = 512
    with_projection: bool | None = None

    @classmethod
    def _fill(cls, given: Mapping[str, Any], naming: str) -> Mapping[str, Any]:
        return {**given, "with_projection": False} if naming == BARE else given

    @property
    def projection(self) -> int | None:
        """Width of the common space; None for a tower that ends before it."""
        return None if self.with_projection is False else self.projection_dim


@dataclass(frozen=True, kw_only=True)
class _SiglipConfig(_TowerConfig):
    hidden_act: Literal["gelu_pytorch_tanh"] = "gelu_pytorch_tanh"
    layer_norm_eps: Rate = 1e-6


@dataclass(frozen=True, kw_only=True)
class ClipVisionConfig(_ImageConfig, _ClipConfig):
    """The config of CLIP's image tower."""

    model_type: ClassVar[str] = "clip_vision_model"
    patch_size: Whole = 32


@dataclass(frozen=True, kw_only=True)
class ClipTextConfig(_ClipConfig):
    """The config of CLIP's text tower."""

    model_type: ClassVar[str] = "clip_text_model"
    hidden_size: Whole = 512
    num_attention_heads: Whole = 8
    intermediate_size: Whole = 2048
    vocab_size: Vocabulary = 49408
    max_position_embeddings: Whole = 77
    eos_token_id: Annotated[int, Range(0, 1 << 24)] = 49407


@dataclass(frozen=True, kw_only=True)
class SiglipVisionConfig(_ImageConfig, _SiglipConfig):
    """The config of SigLIP's image tower."""

    model_type: ClassVar[str] = "siglip_vision_model"
    patch_size: Whole = 16
    vision_use_head: Literal[True] = True


@dataclass(frozen=True, kw_only=True)
class SiglipTextConfig(_SiglipConfig):
    """The config of SigLIP's text tower."""

    model_type: ClassVar[str] = "siglip_text_model"
    vocab_size: Vocabulary = 32000
    max_position_embeddings: Whole = 64
    projection_size: Whole | None = None

    @property
    def projection(self) -> int:
        """Width of the common space."""
        return self.projection_size or self.hidden_size


@dataclass(frozen=True, kw_only=True)
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
            later = made.pop(f"{name}_dict", None)  # in old files, where it goes before the other
            for value in (first, {} if later is None else later):
                if not isinstance(value, Mapping):
                    raise ValueError(f"{name}={show(str(value))}: give names and values")
            usual = {} if later is None else {**tower().to_dict(), **later}
            both = {"projection_dim": made["projection_dim"]} if issubclass(tower, _ClipConfig) else {}
            made[name] = {**first, **usual, **both, "model_type": tower.model_type}
        return made


@dataclass(frozen=True, kw_only=True)
class ClipConfig(_BothConfig):
    """The config of CLIP's two towers."""

    model_type: ClassVar[str] = "clip"
    towers = {"text_config": ClipTextConfig, "vision_config": ClipVisionConfig}
    projection_dim: Whole = 512
    text_config: ClipTextConfig
    vision_config: ClipVisionConfig

    @classmethod
    def _fill(cls, given: Mapping[str, Any], naming: str) -> Mapping[str, Any]:
        return super()._fill({"projection_dim": 512, **given}, naming)


@dataclass(frozen=True, kw_only=True)
class SiglipConfig(_BothConfig):
    """The config of SigLIP's two towers."""

    model_type: ClassVar[str] = "siglip"
    towers = {"text_config": SiglipTextConfig, "vision_config": SiglipVisionConfig}
    text_config: SiglipTextConfig
    vision_config: SiglipVisionConfig

    def _check(self) -> None:
        text, image = self.text_config.projection, self.vision_config.hidden_size
        if text != image:
            raise ValueError(f"siglip with projection_size={text} of its texts is not read, only with {image}")


def _common(config: _ClipConfig | _SiglipConfig) -> dict[str, Any]:
    return {"size": config.size, "eps": config.layer_norm_eps, "attention_dropout": config.attention_dropout}


def _finished(tower: Model, config: _TowerConfig) -> Model:
    return normalised(tower) if config.normalised else tower


def _clip_image(config: ClipVisionConfig) -> Model:
    own = {"activation": config.hidden_act, "projection": config.projection}
    return _finished(clip_image(patch=config.patch_size, image=config.image_size, **own, **_common(config)), config)


def _clip_text(config: ClipTextConfig) -> Model:
    end = config.eos_token_id
    tower = clip_text(
        vocabulary=config.vocab_size,
        positions=config.max_position_embeddings,
        end=None if end == 2 else end,  # as transformers reads the configs of the first releases, which were wrong
        activation=config.hidden_act,
        projection=config.projection,
        **_common(config),
    )
    return _finished(tower, config)


def _siglip_image(config: SiglipVisionConfig) -> Model:
    return _finished(siglip_image(patch=config.patch_size, image=config.image_size, **_common(config)), config)


def _siglip_text(config: SiglipTextConfig) -> Model:
    tower = siglip_text(
        vocabulary=config.vocab_size,
        positions=config.max_position_embeddings,
        projection=config.projection,
        **_common(config),
    )
    return _finished(tower, config)


def _picture(config: _ImageConfig) -> Any:
    return picture(config.image_size, config.num_channels)


def _sentence(config: ClipTextConfig | SiglipTextConfig) -> Any:
    return sentence(config.max_position_embeddings)


C = TypeVar("C", bound=_TowerConfig)
Both = TypeVar("Both", ClipConfig, SiglipConfig)


def _tower(
    config: type[C],
    bare: str,
    backbone: Callable[[C], Model],
    table: Callable[[int, str, str], list[Rule]],
    example: Callable[[C], Any],
) -> Family[C]:
    """One tower.

    Args:
      config: the class of its configs.
      bare: transformers' class without a projection.
      backbone: of a config.
      table: of a depth, a path and a prefix.
      example: of a config.
    """
    part = "vision_model" if issubclass(config, _ImageConfig) else "text_model"

    def projects(config: C) -> bool:
        return isinstance(config, _ClipConfig) and config.projection is not None

    def tables(config: C) -> dict[str, Sequence[Rule]]:
        # Without a projection nothing stands beside the tower, and transformers writes no prefix since its version 5.
        top = rf"(?:{part}\.|)" if projects(config) else rf"(?:|{part}\.)"
        rules = table(config.num_hidden_layers, "backbone", top)
        if not isinstance(config, _ClipConfig):
            return {"transformers": rules}
        return {BARE: [rule for rule in rules if rule.path != "backbone/projection/kernel"], "transformers": rules}

    return Family(
        config=config,
        names="",
        named=lambda name, changes: None,
        backbone=backbone,
        example=example,
        tables=tables,
        usual=lambda name, config: None,
        architecture=None,
        bare=lambda config: f"{bare}WithProjection" if projects(config) else bare,
        depth=("num_hidden_layers",),
    )


def _clip(config: ClipConfig) -> Model:
    return two_towers(_clip_image(config.vision_config), _clip_text(config.text_config), bias=False)


def _siglip(config: SiglipConfig) -> Model:
    return two_towers(_siglip_image(config.vision_config), _siglip_text(config.text_config), bias=True)


def _tables_clip(config: ClipConfig) -> dict[str, Sequence[Rule]]:
    depths = config.vision_config.num_hidden_layers, config.text_config.num_hidden_layers
    image = maps.clip_image(depths[0], "backbone/image", r"vision_model\.")
    text = maps.clip_text(depths[1], "backbone/text", r"text_model\.")
    return {
        "transformers": [*maps.scale(), *image, *text],
        "open_clip": [*maps.scale(), *names_open_clip.clip(*depths)],
    }


def _tables_siglip(config: SiglipConfig) -> dict[str, Sequence[Rule]]:
    image = maps.siglip_image(config.vision_config.num_hidden_layers, "backbone/image", r"vision_model\.")
    text = maps.siglip_text(config.text_config.num_hidden_layers, "backbone/text", r"text_model\.")
    return {"transformers": [*maps.scale_of_siglip(), *image, *text]}


def _both(
    config: type[Both],
    bare: str,
    backbone: Callable[[Both], Model],
    tables: Callable[[Both], dict[str, Sequence[Rule]]],
) -> Family[Both]:
    return Family(
        config=config,
        names="",
        named=lambda name, changes: None,
        backbone=backbone,
        example=lambda config: {"image": _picture(config.vision_config), "text": _sentence(config.text_config)},
        tables=tables,
        usual=lambda name, config: None,
        architecture=None,
        bare=lambda config: bare,
    )


FAMILIES = (
    _both(ClipConfig, "CLIPModel", _clip, _tables_clip),
    _both(SiglipConfig, "SiglipModel", _siglip, _tables_siglip),
    _tower(ClipVisionConfig, "CLIPVisionModel", _clip_image, maps.clip_image, _picture),
    _tower(ClipTextConfig, "CLIPTextModel", _clip_text, maps.clip_text, _sentence),
    _tower(SiglipVisionConfig, "SiglipVisionModel", _siglip_image, maps.siglip_image, _picture),
    _tower(SiglipTextConfig, "SiglipTextModel", _siglip_text, maps.siglip_text, _sentence),
)
