"""Typed configs: entries are checked, what is no field is kept, and a config is read again from what it gives."""

from collections.abc import Mapping
from dataclasses import FrozenInstanceError
from typing import Annotated, Any, Literal

import pytest

from jtl.backbones.config import Config, Range, Rate, Whole, Widths, Zero, read
from jtl.backbones.family import by_preset, with_head


class Part(Config):
    words: Annotated[tuple[str, ...], Range(1, 2)]
    on: bool = True


class Net(Config, model_type="net", aliases={"hidden_size": "width"}):
    width: Whole = 8
    heads: Whole
    sizes: Widths = (4, 8)
    act: Literal["gelu", "relu"] = "gelu"
    bias: Literal[True] = True
    drop: Rate = 0.0
    path: Zero = 0.0
    top: Whole | None = None
    part: Part | None = None

    @classmethod
    def _fill(cls, given: Mapping[str, Any], naming: str) -> Mapping[str, Any]:
        return {"drop": 0.5, **given} if naming == "timm" else given

    def _check(self) -> None:
        if self.width % self.heads:
            raise ValueError(f"width={self.width} is no multiple of heads={self.heads}")


@pytest.mark.parametrize(
    ("entries", "said"),
    [
        ({"width": 0}, "net with width=0: give a whole number from 1 to 65536"),
        ({"width": 1 << 17}, "net with width=131072: give a whole number from 1 to 65536"),
        ({"width": True}, "net with width=True: give a whole number"),
        ({"width": 8.0}, "net with width=8.0: give a whole number"),
        ({"width": "8"}, "net with width='8': give a whole number"),
        ({"width": None}, "net with width=None: give a whole number"),
        ({"top": 0}, "net with top=0: give a whole number from 1 to 65536, or null"),
        ({"drop": float("nan")}, "net with drop=nan: give a number from 0 to 1.0"),
        ({"drop": True}, "net with drop=True: give a number"),
        ({"drop": -1}, "net with drop=-1: give a number"),
        ({"path": 0.1}, "net with path=0.1 is not read, only with 0.0"),
        ({"bias": False}, "net with bias=False is not read, only with True"),
        ({"act": "tanh"}, "net with act='tanh': give one of ['gelu', 'relu']"),
        ({"act": []}, "net with act=[]: give one of ['gelu', 'relu']"),
        ({"sizes": [4, 0]}, "net with sizes=[4, 0]: give a list of 1 to 8, each a whole number from 1 to 65536"),
        ({"sizes": []}, "net with sizes=[]: give a list of 1 to 8"),
        ({"sizes": [1] * 9}, "net with sizes=[1, 1, 1, 1, 1, 1, 1, 1, 1]: give a list of 1 to 8"),
        ({"sizes": 4}, "net with sizes=4: give a list of 1 to 8"),
        ({"part": 3}, "net with part=3: give names and values, or null"),
        ({"part": {}}, "words=None: give a list of 1 to 2, each a text"),
        ({"part": {"words": ["a"], "on": 1}}, "on=1: give true or false"),
        ({"heads": 3}, "width=8 is no multiple of heads=3"),
        ({"model_type": "vit"}, "model_type='vit': Net is of 'net'"),
        ({"width": 8, "hidden_size": 16}, "width=8 and hidden_size=16 are the same measure of a net: give it once"),
    ],
)
def test_an_impossible_entry_is_named(entries, said):
    with pytest.raises(ValueError) as error:
        Net.from_dict({"heads": 2, **entries})
    assert said in str(error.value)


def test_an_entry_without_a_default_must_be_given():
    with pytest.raises(ValueError, match="net with heads=None: give a whole number"):
        Net.from_dict({})


def test_what_is_no_field_is_kept_and_a_config_is_read_again_from_what_it_gives():
    entries = {"heads": 2, "hidden_size": 12, "sizes": [2], "part": {"words": ["a", "b"]}, "id2label": {"0": "ant"}}
    config = Net.from_dict(entries)
    assert (config.width, config.sizes, config.extra) == (12, (2,), {"id2label": {"0": "ant"}})
    given = config.to_dict()
    assert given["model_type"] == "net"
    assert given["part"] == {"words": ["a", "b"], "on": True}
    assert "top" not in given
    assert Net.from_dict(given) == config
    assert hash(Net.from_dict(given)) == hash(config)
    assert Net.from_dict({**given, "id2label": {}}) != config
    assert entries["hidden_size"] == 12


def test_a_whole_number_stays_one_where_a_float_may_be():
    """transformers refuses 2.0 where it wants 2, and files say either."""
    assert type(Net(heads=2, drop=1).to_dict()["drop"]) is int


def test_defaults_may_depend_on_whose_file_it_is():
    assert Net.from_dict({"heads": 2}, "timm").drop == 0.5
    assert Net.from_dict({"heads": 2, "drop": 0.25}, "timm").drop == 0.25
    assert Net.from_dict({"heads": 2}).drop == 0.0


def test_a_config_is_frozen_and_a_copy_is_checked():
    config = Net(heads=2, extra={"a": 1})
    with pytest.raises(FrozenInstanceError):
        setattr(config, "heads", 4)  # noqa: B010
    assert config.replace(heads=4) == Net(heads=4, extra={"a": 1})
    with pytest.raises(ValueError, match="net with heads=0"):
        config.replace(heads=0)
    with pytest.raises(ValueError, match="width=8 is no multiple of heads=3"):
        config.replace(heads=3)
    with pytest.raises(TypeError, match="head"):
        config.replace(head=4)


def test_one_value_is_read_by_itself():
    assert read(Widths, "channels", [1, 2]) == (1, 2)
    with pytest.raises(ValueError, match=r"^channels=\[0\]: give a list of 1 to 8"):
        read(Widths, "channels", [0])


def test_networks_by_name_take_the_words_that_are_known():
    named = by_preset("net", {"net-small": {"width": 4}}, {"dim": "width"})
    assert named("net-small", {}) == {"model_type": "net", "width": 4}
    assert named("net-small", {"dim": 6}) == {"model_type": "net", "width": 6}
    assert named("net-large", {}) is None
    with pytest.raises(ValueError, match=r"model_args \['depth'\] change the network .* known are \['dim'\]"):
        named("net-small", {"depth": 1})


def test_the_names_of_a_file_tell_whether_the_layer_before_a_classifier_is_there():
    given = {"pooled": True}
    assert with_head(given, "transformers, headless", "pooled") == {"pooled": False}
    assert with_head({}, "transformers", "pooled") == {"pooled": True}
    assert with_head(given, "", "pooled") == given
