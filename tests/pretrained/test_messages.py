"""What `jtl.load` says where a user is likely to go wrong."""

import json

import jax
import made
import numpy as np
import pytest
from safetensors.numpy import save_file

from jtl import heads, peft
from jtl.command.model import pretrained
from jtl.pretrained.inspect import inspect
from jtl.pretrained.load import load
from jtl.pretrained.save import save
from jtl.weights.formats.errors import WeightNameError
from jtl.weights.mapping.coverage import Coverage


def test_an_adapters_folder_is_told(tmp_path):
    told = {"peft_type": "LORA", "base_model_name_or_path": "org/base", "r": 8}
    (tmp_path / "adapter_config.json").write_text(json.dumps(told))
    save_file({"base_model.model.x.lora_A.weight": np.ones((2, 2), np.float32)}, tmp_path / "adapter_model.safetensors")
    for options in ({}, {"arch": "resnet18"}):
        with pytest.raises(
            ValueError, match=r"holds a PEFT adapter \('LORA'\).*'org/base', by jtl.load.*jtl\.peft\.load"
        ):
            load(tmp_path, **options)
    with pytest.raises(ValueError, match=r"holds a PEFT adapter \('LORA'\).*jtl\.peft\.load"):
        pretrained(str(tmp_path), ("a", "b"), arch=None, kind="images", key=jax.random.key(0))
    assert inspect(tmp_path).endswith("and put the adapter on it by jtl.peft.load")
    made.folder(tmp_path, made.VIT)  # a network beside it is read
    assert load(tmp_path).naming == "transformers"


def test_an_adapter_that_does_not_say_its_network_is_told(tmp_path):
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    with pytest.raises(ValueError, match=r"the network that it was trained on by jtl\.load"):
        load(tmp_path)


@pytest.mark.parametrize("method", ["fp8", "bitsandbytes"])
def test_quantised_weights_are_refused_by_their_method(method, tmp_path):
    """Without their scales, which unused= would leave out, the numbers are no weights."""
    folder = made.folder(tmp_path, made.BERT)
    config = {**json.loads((folder / "config.json").read_text()), "quantization_config": {"quant_method": method}}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=f"quantization_config of quant_method='{method}': .*from before they were"):
        load(folder)
    (folder / "config.json").write_text(json.dumps({**config, "quantization_config": None}))
    assert load(folder).labels is None


def test_an_adapters_repository_is_told(hub):
    hub.commit("org/adapter", {"adapter_config.json": b"{}", "adapter_model.safetensors": b"x"})
    with pytest.raises(FileNotFoundError, match=r"org/adapter holds a PEFT adapter.*jtl\.peft\.load"):
        load("hf:org/adapter")


def test_a_head_to_be_re_initialised_needs_classes(tmp_path):
    folder = made.folder(tmp_path / "in", made.VIT)
    bare = {name: array for name, array in made.tensors(made.VIT).items() if not name.startswith("classifier")}
    save_file(bare, folder / "model.safetensors")
    with pytest.raises(ValueError, match="the file has no head, so give classes= too"):
        load(folder, reinit=("head/.*",))
    head = load(folder, reinit=("head/.*",), classes=np.int64(2)).variables.params["head"]
    assert head["out"]["kernel"].shape == (12, 2)


def test_two_classes_of_one_name_are_refused(tmp_path):
    folder = made.folder(tmp_path / "in", made.VIT)
    with pytest.raises(ValueError, match=r"classes=\('a', 'b', 'a'\): a more than once; give each class a name"):
        load(folder, classes=("a", "b", "a"), reinit=("head/.*",))


def test_names_of_networks_are_told_by_the_nearest(tmp_path):
    folder = made.folder(tmp_path / "in", made.VIT)
    (folder / "config.json").unlink()
    with pytest.raises(ValueError, match=r"without a config\.json does not say.*`jtl inspect`.*`jtl models`") as caught:
        load(folder)
    assert len(str(caught.value)) < 400
    with pytest.raises(
        ValueError, match=r"arch='resnet51' is not known; near are .*resnet50.*; `jtl models`"
    ) as caught:
        load(folder, arch="resnet51")
    assert len(str(caught.value)) < 400


def test_variables_of_another_head_are_saved_with_it_alone(tmp_path):
    """A head of three outputs in the place of two was saved without a word."""
    known = load(made.folder(tmp_path / "in", made.RESNET), classes=2, reinit=("head/.*",))
    head = heads.linear(3)
    params = {**known.variables.params, "head": head.init(jax.random.key(0), np.zeros((1, 8))).params}
    variables = known.variables._replace(params=params)
    with pytest.raises(WeightNameError, match=r"variables has .*'out/kernel': \(8, 3\)\}, .*'out/kernel': \(8, 2\)\}:"):
        save(tmp_path / "out", known, variables)
    save(tmp_path / "out", known._replace(head=head), variables)
    assert load(tmp_path / "out").variables.params["head"]["out"]["kernel"].shape == (8, 3)


def test_a_name_without_its_beginning_is_told_by_the_whole(tmp_path):
    folder = made.folder(tmp_path / "in", made.VIT)
    with pytest.raises(ValueError, match="arch='resnet20' is not known; near are cifar_resnet20"):
        load(folder, arch="resnet20")


def test_counters_of_batches_are_one_line_of_the_report():
    counters = [f"layer{i}.bn.num_batches_tracked" for i in range(52)]
    text = str(Coverage(unused=[*counters[:2], "fc.weight", *counters[2:]]))
    assert text.count("num_batches_tracked") == 1
    assert "*.num_batches_tracked, 52 of them" in text
    assert "fc.weight" in text
    assert "53 tensors of the file unused" in text
    assert counters[0] in str(Coverage(unused=counters[:1]))


def test_a_line_tells_a_head_without_names_from_none(tmp_path):
    folder = made.folder(tmp_path, made.RESNET)
    assert "a head whose classes have no names" in repr(load(folder, classes=2, reinit=("head/.*",)))
    assert "classes ['a', 'b']" in repr(load(folder, classes=("a", "b"), reinit=("head/.*",)))
    held = {name: array for name, array in made.tensors(made.RESNET).items() if not name.startswith("classifier")}
    save_file(held, folder / "model.safetensors", metadata={"format": "pt"})
    assert "no head" in repr(load(folder))


def test_variables_with_adapters_are_told_what_writes_them(tmp_path, key):
    made.folder(tmp_path / "net", made.VIT)
    known = load(tmp_path / "net", classes=2, reinit=("head/.*",))
    adapter = peft.lora(2, (r"block\d+/attention/query",))
    _, variables = peft.attach(known.network, known.variables, adapter, key)
    with pytest.raises(WeightNameError, match=r"hold \d+ arrays of adapters.*jtl\.peft\.merge.*jtl\.peft\.save"):
        save(tmp_path / "again", known, variables)
    save(tmp_path / "again", known, peft.merge(variables, adapter))


def test_checkpoints_that_do_not_say_their_network_are_told(tmp_path):
    (tmp_path / "step_00000005").mkdir()
    (tmp_path / "step_00000005" / "manifest.json").write_text("{}")
    with pytest.raises(ValueError, match=r"do not say their network: .*Checkpoints\(folder\)\.variables\(\)"):
        load(tmp_path)
