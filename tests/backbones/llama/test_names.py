"""Files of Llama, Mistral, Qwen2 and Qwen3 in transformers, there and back."""

import json

import jax
import numpy as np
import pytest
from loading import close, renamed, same_bits, tree_of
from running import forward
from safetensors.numpy import load_file, save_file

from jtl.backbones.family import PLAIN
from jtl.methods.finetune.finetune import predictor
from jtl.params import flatten
from jtl.pretrained.load import load
from jtl.pretrained.save import save
from jtl.weights import WeightNameError

VARIANTS = ("llama", "llama, tied and biased", "mistral", "qwen2", "qwen2, untied", "qwen3")


@pytest.fixture
def references():
    pytest.importorskip("torch", reason="torch is the reference; it is installed for Python 3.11 only")
    pytest.importorskip("transformers")
    import llama_references

    return llama_references


def read_by(reader, folder):
    """transformers' network of a folder, which has every tensor and no more."""
    theirs, account = reader.from_pretrained(folder, output_loading_info=True)
    assert not any(account.values()), account
    return theirs.eval()


@pytest.mark.parametrize("name", VARIANTS)
def test_names_go_there_and_back(references, name, tmp_path):
    net = references.made(name)
    net.save_pretrained(tmp_path)
    loaded, held = load(tmp_path), load_file(tmp_path / "model.safetensors")
    same_bits(renamed(loaded, "transformers" if net.config.tie_word_embeddings else PLAIN), held)


@pytest.mark.parametrize("made", ["ForCausalLM", "Model"])
@pytest.mark.parametrize("name", VARIANTS)
def test_transformers_loads_what_was_read(references, name, made, tmp_path):
    """The same class, the same hidden states and words' logits, bit by bit; from files in parts too."""
    import torch
    import transformers

    net = references.made(name, made)
    net.save_pretrained(tmp_path / "in", max_shard_size="4KB")
    assert (tmp_path / "in" / "model.safetensors.index.json").exists()
    loaded = load(tmp_path / "in")
    save(tmp_path / "out", loaded)
    tied = net.config.tie_word_embeddings
    reader = transformers.AutoModelForCausalLM if made == "ForCausalLM" else transformers.AutoModel
    theirs = read_by(reader, tmp_path / "out")
    again, kind = json.loads((tmp_path / "out" / "config.json").read_text()), type(net).__name__
    assert again["architectures"] == [kind.replace("Model", "ForCausalLM") if tied else kind]
    assert theirs.config.rope_parameters == net.config.rope_parameters
    x = references.to_torch(references.texts("left"))
    with torch.no_grad():
        found, wanted = theirs(**x), net(**x)
    torch.testing.assert_close(found[0], wanted[0], rtol=0, atol=0)
    same_bits(flatten(tree_of(load(tmp_path / "out"))), flatten(tree_of(loaded)))


@pytest.mark.parametrize("words", ["rope_scaling", "rope_parameters"])
def test_wavelengths_are_read_by_old_words_and_new(references, words, tmp_path):
    """What is saved has the old ones, which both versions of transformers read."""
    rope = {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 16,
    }
    net = references.made("llama", rope_parameters={**rope, "rope_theta": 50.0})
    net.save_pretrained(tmp_path / "in")
    if words == "rope_scaling":
        config = json.loads((tmp_path / "in" / "config.json").read_text())
        del config["rope_parameters"]
        config |= {"rope_theta": 50.0, "rope_scaling": {"type": "llama3", **rope}}
        (tmp_path / "in" / "config.json").write_text(json.dumps(config))
    save(tmp_path / "out", load(tmp_path / "in"))
    saved = json.loads((tmp_path / "out" / "config.json").read_text())
    assert (saved["rope_theta"], saved["rope_scaling"]) == (50.0, rope)
    import transformers

    theirs = read_by(transformers.AutoModelForCausalLM, tmp_path / "out")
    assert theirs.config.rope_parameters == net.config.rope_parameters


@pytest.mark.parametrize("name", VARIANTS)
def test_a_classifier_goes_there_and_back(references, name, tmp_path):
    """It finds a text's last token by the padding, on either side."""
    import torch
    import transformers

    net = references.made(name, "ForSequenceClassification", num_labels=3)
    net.save_pretrained(tmp_path / "in")
    loaded, x = load(tmp_path / "in"), references.texts("right", "left")
    given = references.to_torch(x)
    with torch.no_grad():
        wanted = net(**given).logits
    close(jax.jit(predictor(loaded.network))(loaded.variables, x), wanted, 1e-5, "logits")
    save(tmp_path / "out", loaded)
    theirs = read_by(transformers.AutoModelForSequenceClassification, tmp_path / "out")
    assert type(theirs) is type(net)
    with torch.no_grad():
        torch.testing.assert_close(theirs(**given).logits, wanted, rtol=0, atol=0)


def test_a_model_of_language_becomes_a_classifier(references, tmp_path):
    """Its last layer is left where it is not to be kept; with it there is no file of transformers."""
    import transformers

    references.made("llama").save_pretrained(tmp_path / "in")
    options = {"classes": ("low", "high"), "reinit": ("head/.*",)}
    both = load(tmp_path / "in", **options)
    assert set(both.variables.params["backbone"]) >= {"lm_head"}
    with pytest.raises(WeightNameError, match="backbone/lm_head/kernel"):
        save(tmp_path / "out", both)
    loaded = load(tmp_path / "in", **options, unused=(r"lm_head\.weight",))
    assert "lm_head" not in loaded.variables.params["backbone"]
    save(tmp_path / "out", loaded)
    theirs = read_by(transformers.AutoModelForSequenceClassification, tmp_path / "out")
    assert tuple(theirs.config.id2label.values()) == ("low", "high")


def test_jtl_files_keep_both_heads(references, tmp_path):
    references.made("llama").save_pretrained(tmp_path / "in")
    both = load(tmp_path / "in", classes=2, reinit=("head/.*",))
    save(tmp_path / "out", both, format="jtl")
    same_bits(flatten(tree_of(load(tmp_path / "out"))), flatten(tree_of(both)))


def test_old_files_and_copies_are_read(references, tmp_path):
    """Without the prefix, with each block's wavelengths, and with the copy of a tied layer."""
    net = references.made("qwen2")
    net.save_pretrained(tmp_path)
    loaded, held = load(tmp_path), load_file(tmp_path / "model.safetensors")
    old = {n.removeprefix("model."): a for n, a in held.items()}
    extra = {"lm_head.weight": old["embed_tokens.weight"].copy()}
    extra["layers.0.self_attn.rotary_emb.inv_freq"] = np.ones(2, np.float32)
    save_file(old | extra, tmp_path / "model.safetensors")
    again = load(tmp_path)
    assert set(again.report.unused) == set(extra)
    same_bits(flatten(tree_of(again)), flatten(tree_of(loaded)))


def test_first_blocks_alone(references, tmp_path):
    net = references.made("qwen3", num_hidden_layers=3)
    net.save_pretrained(tmp_path)
    loaded = load(tmp_path, stages=2)
    x = references.texts("left")
    found = jax.jit(lambda v: forward(loaded.network, train=False)(v, x, None)[0])(loaded.variables)
    theirs = references.told(net, references.to_torch(x))
    close(np.asarray(found["stage2"])[x["mask"]], theirs["stage2"].detach().numpy()[x["mask"]], 1e-5, "stage2")
    assert "stage3" not in found
