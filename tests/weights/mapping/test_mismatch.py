"""What does not fit is told with a way out, which is one."""

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from loading import follow

from jtl.weights import Rule, WeightNameError, convert
from jtl.weights.mapping.mismatch import DEEP, Mismatch, branches

NAMES = st.lists(st.lists(st.sampled_from(["a", "b", "a+", "[0]"]), min_size=1, max_size=4).map(".".join), unique=True)


@given(NAMES, NAMES)
def test_branches_hold_all_the_names_and_none_of_the_others(names, others):
    others = [name for name in others if name not in names]
    found = branches(names, others, ".")
    for name in names:
        assert any(re.fullmatch(regex, name) for regex in found)
    for name in others:
        assert not any(re.fullmatch(regex, name) for regex in found)
    assert len(found) <= len(names)


def test_branches_are_as_large_as_may_be():
    assert branches(["a.b.x", "a.b.y", "c"], ["a.z"], ".") == [r"a\.b\..*", "c"]
    assert branches(["a.b.x", "a.b.y"], ["z"], ".") == [r"a\..*"]
    deep = ".".join("a" * 300_000)  # a file may hold any name
    assert branches([deep], [], ".") == [r"a\..*"]
    assert branches([deep], [deep[:-1] + "b"], ".") == [re.escape(deep)]
    assert len(deep.split(".")) > DEEP


TABLE = [Rule(r"(body\.\w+)", r"backbone/\1"), Rule(r"fc\.(\w+)", r"head/\1")]


def wanted(**head):
    body = {f"body.{name}": np.zeros(2, np.float32) for name in "abc"}
    return {"backbone": {**body, "pooler": np.zeros(3, np.float32)}, "head": head}


@pytest.mark.parametrize(
    "name",
    ["weight_scale_inv", "input_scale", "SCB", "weight.absmax", "weight.quant_state.bitsandbytes__nf4", "qzeros"],
)
def test_scales_are_not_to_be_left_out(name):
    """By the names of FP8's, bitsandbytes' and GPTQ's files."""
    said = Mismatch([], ["backbone/kernel"], {f"mlp.up.{name}": f"mlp.up.{name}"}, {"mlp.up.weight"}, [])
    last = said.message(["mlp.up.weight"], (), ()).splitlines()[-1]
    assert last == f"'mlp.up.{name}' scales quantised weights, which are not read: give those from before"
    said = Mismatch([], ["backbone/kernel"], {"logit_scale": "logit_scale"}, {"mlp.up.weight"}, [])
    assert said.message(["mlp.up.weight"], (), ()).endswith("unused=('logit_scale',)")


def test_the_way_out_leads_out():
    """With what was asked for before."""
    file = {f"body.{name}": np.ones(2, np.float32) for name in "abc"} | {"old": np.zeros(1), "cls.x.y": np.zeros(1)}
    file |= {"fc.bias": np.zeros(9, np.float32)}
    asked = {"reinit": ("head/.*",), "unused": ("old",)}
    with pytest.raises(WeightNameError) as caught:
        convert(file, TABLE, wanted(bias=np.zeros(4, np.float32)), **asked)
    options = follow(str(caught.value))
    assert options == {"reinit": ("head/.*", "backbone/pooler"), "unused": ("old", r"cls\..*")}
    _, report = convert(file, TABLE, wanted(bias=np.zeros(4, np.float32)), **options)
    assert report.reinit == ["backbone/pooler", "head/bias"]
    assert sorted(report.unused) == ["cls.x.y", "fc.bias", "old"]


def test_there_is_none_to_another_network():
    """Nor around two shapes that differ."""
    foreign = {"body.a": np.zeros(2, np.float32)} | {f"layer{i}.w": np.zeros(1) for i in range(9)}
    other = {f"body.{name}": np.zeros(5, np.float32) for name in "abc"}
    for file in (foreign, other, {}):
        with pytest.raises(WeightNameError) as caught:
            convert(file, TABLE, wanted())
        assert "to load" not in str(caught.value)
