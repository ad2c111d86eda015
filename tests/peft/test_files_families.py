"""Files of PEFT both ways on GPT-2, whose `c_attn` is three layers here, Llama, ViT, and a ViT with timm's names."""

import jax
import numpy as np
import pytest
from running import forward

from jtl import peft as ours
from jtl.params import flatten, unflatten
from jtl.pretrained.load import load

torch = pytest.importorskip("torch", reason="torch is the reference; it is installed for Python 3.11 only")
transformers = pytest.importorskip("transformers")
peft = pytest.importorskip("peft", reason="PEFT is the reference of its own files")

import llama_references
from torch_resnets import randomise

pytestmark = pytest.mark.filterwarnings("ignore")  # PEFT's and transformers' own

LORA, PROMPT = {"r": 2, "lora_alpha": 6}, {"task_type": "CAUSAL_LM", "num_virtual_tokens": 3}
TARGETS = {
    "gpt2": ["c_attn", "mlp.c_proj"],
    "llama": ["q_proj", "v_proj", "down_proj"],
    "vit": ["q_proj", "v_proj", "fc1"],
}
IA3 = {
    "gpt2": {"target_modules": ["c_attn", "mlp.c_proj"], "feedforward_modules": ["mlp.c_proj"]},
    "llama": {"target_modules": ["k_proj", "down_proj"], "feedforward_modules": ["down_proj"]},
    "vit": {"target_modules": ["k_proj", "fc1"], "feedforward_modules": ["fc1"]},
}


def config_of(kind, family):
    turned, at = {"fan_in_fan_out": family == "gpt2"}, {"target_modules": TARGETS[family]}
    return {
        "lora": lambda: peft.LoraConfig(**LORA, **at, **turned),
        "rslora": lambda: peft.LoraConfig(**LORA, **at, **turned, use_rslora=True),
        "dora": lambda: peft.LoraConfig(**LORA, **at, **turned, use_dora=True),
        "ia3": lambda: peft.IA3Config(**IA3[family], **turned),
        "vera": lambda: peft.VeraConfig(r=5, **at, **turned, save_projection=True),
        "oft": lambda: peft.OFTConfig(oft_block_size=4, target_modules=TARGETS[family][:2]),
        "prompt": lambda: peft.PromptTuningConfig(**PROMPT),
        "prefix": lambda: peft.PrefixTuningConfig(**PROMPT),
    }[kind]()


def made(family):
    if family == "llama":
        return llama_references.made("llama")
    measures = {"num_hidden_layers": 2, "num_attention_heads": 3}
    if family == "vit":
        config = transformers.ViTConfig(
            hidden_size=12, intermediate_size=24, image_size=8, patch_size=4, num_labels=3, **measures
        )
        return randomise(transformers.ViTForImageClassification(config)).eval()
    config = transformers.GPT2Config(vocab_size=40, n_embd=12, n_positions=24, bos_token_id=1, eos_token_id=1, **measures)
    return randomise(transformers.GPT2LMHeadModel(config)).eval()


def inputs(family):
    if family == "vit":
        x = np.random.default_rng(0).normal(size=(2, 8, 8, 3)).astype(np.float32)
        return x, {"pixel_values": torch.tensor(x).permute(0, 3, 1, 2)}
    x = llama_references.texts("right", tokens=7)
    return x, llama_references.to_torch(x, counted=False)


class Family:
    """A small network of transformers in a folder, jtl's of it, and both on one batch."""

    def __init__(self, name, folder):
        self.name, self.folder, (self.x, self.theirs) = name, folder, inputs(name)
        net = made(name)
        net.save_pretrained(folder)
        self.kind, self.pretrained = type(net), load(folder)
        self.run = jax.jit(lambda v: self.of(self.pretrained.network, v))

    def of(self, net, variables):
        features, output, _ = forward(net, train=False)(variables, self.x, None)
        return output if self.name == "vit" else features["logits"]

    def fresh(self):
        return self.kind.from_pretrained(self.folder).eval()

    def reference(self, net):
        with torch.no_grad():
            found = net(**self.theirs).logits.numpy()
        return found if self.name == "vit" else found[:, -7:]

    def close(self, found, wanted, atol=1e-5):
        seen = 1 if self.name == "vit" else self.x["mask"][..., None]  # no token of a text
        np.testing.assert_allclose(np.asarray(found) * seen, wanted * seen, rtol=0, atol=atol)


@pytest.fixture(scope="module")
def families(tmp_path_factory):
    known = {}
    return lambda name: known.setdefault(name, None) or known.setdefault(
        name, known.pop(name) or Family(name, tmp_path_factory.mktemp(name))
    )


CASES = [
    *[("gpt2", kind) for kind in ("lora", "rslora", "dora", "ia3", "vera", "prompt", "prefix")],
    *[("llama", kind) for kind in ("lora", "rslora", "dora", "ia3", "vera", "oft", "prompt", "prefix")],
    *[("vit", kind) for kind in ("lora", "rslora", "dora", "ia3", "vera", "oft")],
]


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_both_ways(name, kind, families, tmp_path):
    """PEFT's random adapters give PEFT's outputs here; saved again and read by PEFT, the same."""
    family = families(name)
    theirs, draw = peft.get_peft_model(family.fresh(), config_of(kind, name)).eval(), torch.Generator().manual_seed(0)
    for part, value in theirs.named_parameters():
        if any(word in part for word in ("lora_", "ia3_", "vera_", "oft_", "prompt_")):
            value.data += 0.5 * torch.randn(value.shape, generator=draw)
    theirs.save_pretrained(tmp_path / "theirs")
    wanted = family.reference(theirs)
    assert np.abs(wanted - family.reference(family.fresh())).max() > 1e-2
    loaded = ours.load(tmp_path / "theirs", family.pretrained)
    if kind in ("prompt", "prefix"):  # not to be merged
        family.close(jax.jit(lambda v: family.of(loaded.network, v))(loaded.variables), wanted)
    else:
        family.close(family.run(ours.merge(loaded.variables, loaded.adapter)), wanted, 2e-5)
    ours.save(tmp_path / "ours", family.pretrained, loaded.variables, loaded.adapter)
    again = peft.PeftModel.from_pretrained(family.fresh(), tmp_path / "ours").eval()
    family.close(family.reference(again), wanted)
    if kind == "lora":  # what was of one layer stays of the rank that it had
        assert again.peft_config["default"].r == 2
