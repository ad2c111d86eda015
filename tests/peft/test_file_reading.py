"""Which configs of PEFT are read; the files as a whole are in `test_files.py`."""

import numpy as np
import pytest

from jtl.peft.file_reading import Part, adapter_of

PARTS = [Part("block1/query", "a", np.zeros((4, 2), np.float32), 0, False, "layer.0.query")]


def config(start):
    return {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "init_lora_weights": start}


@pytest.mark.parametrize("start", ["pissa_niter_16", "corda", "olora", "loftq", "lora_ga"])
def test_a_start_that_changed_the_base_is_refused(start):
    """A B would be added to the whole W, where PEFT adds it to the rest."""
    with pytest.raises(ValueError, match=f"init_lora_weights='{start}'.*path_initial_model_for_weight_conversion"):
        adapter_of(config(start), PARTS, {})


@pytest.mark.parametrize("start", [True, False, None, "gaussian", "eva", "orthogonal", "mica"])
def test_a_start_that_leaves_the_base_alone_is_read(start):
    assert adapter_of(config(start), PARTS, {}).where == ("block1/query",)


@pytest.mark.parametrize("kind", ["LORA", "LOHA", "LOKR"])
def test_what_a_config_lacks_is_pefts_default(kind):
    found = adapter_of({"peft_type": kind}, PARTS, {}).config
    assert (found["r"], found["lora_alpha"]) == (8, 8)


def test_pissa_of_layers_that_are_several_here_is_refused():
    """The singular values of `c_attn` are not those of its three parts, so the rest of the base would be another."""
    assert adapter_of(config("pissa"), PARTS, {}).rest is not None
    both = [*PARTS, PARTS[0]._replace(module="block1/key")]
    with pytest.raises(ValueError, match=r"init_lora_weights='pissa' of layers that are several"):
        adapter_of(config("pissa"), both, {})
