"""Files of PEFT both ways on GPT-2, whose `c_attn` is three layers here, Llama, ViT, and a ViT with timm's names."""

import copy

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from running import forward

from jtl import peft as ours
from jtl.params import flatten, merge, select, split, unflatten
from jtl.pretrained.load import load

torch = pytest.importorskip("torch", reason="torch is the reference; it is installed for Python 3.11 only")
transformers = pytest.importorskip("transformers")
peft = pytest.importorskip("peft", reason="PEFT is the reference of its own files")

import llama_references
import text_references
from torch_resnets import randomise

pytestmark = pytest.mark.filterwarnings("ignore")  # PEFT's and transformers' own

LORA, PROMPT = {"r": 2, "lora_alpha": 6}, {"task_type": "CAUSAL_LM", "num_virtual_tokens": 3}
TASK = {"bert": {"task_type": "SEQ_CLS"}}
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
    turned, at = {"fan_in_fan_out": family == "gpt2"}, {"target_modules": TARGETS.get(family)}
    return {
        "lora": lambda: peft.LoraConfig(**LORA, **at, **turned),
        "rslora": lambda: peft.LoraConfig(**LORA, **at, **turned, use_rslora=True),
        "dora": lambda: peft.LoraConfig(**LORA, **at, **turned, use_dora=True),
        "adalora": lambda: peft.AdaLoraConfig(init_r=3, lora_alpha=6, total_step=9, **at, **turned),
        "ia3": lambda: peft.IA3Config(**IA3[family], **turned),
        "loha": lambda: peft.LoHaConfig(r=2, alpha=6, **at),
        "lokr": lambda: peft.LoKrConfig(r=2, alpha=6, **at),
        "vera": lambda: peft.VeraConfig(r=5, **at, **turned, save_projection=True),
        "oft": lambda: peft.OFTConfig(oft_block_size=4, target_modules=TARGETS[family][:2]),
        "prompt": lambda: peft.PromptTuningConfig(**PROMPT | TASK.get(family, {})),
        "prefix": lambda: peft.PrefixTuningConfig(**PROMPT),
    }[kind]()


def made(family):
    if family == "llama":
        return llama_references.made("llama")
    if family == "bert":
        return text_references.hf_text("bert")
    measures = {"num_hidden_layers": 2, "num_attention_heads": 3}
    if family == "vit":
        config = transformers.ViTConfig(
            hidden_size=12, intermediate_size=24, image_size=8, patch_size=4, num_labels=3, **measures
        )
        return randomise(transformers.ViTForImageClassification(config)).eval()
    config = transformers.GPT2Config(
        vocab_size=40, n_embd=12, n_positions=24, bos_token_id=1, eos_token_id=1, **measures
    )
    return randomise(transformers.GPT2LMHeadModel(config)).eval()


def inputs(family):
    if family == "vit":
        x = np.random.default_rng(0).normal(size=(2, 8, 8, 3)).astype(np.float32)
        return x, {"pixel_values": torch.tensor(x).permute(0, 3, 1, 2)}
    if family == "bert":
        x = text_references.texts("bert")
        return x, text_references.to_torch(x)
    x = llama_references.texts("right", tokens=7)
    return x, llama_references.to_torch(x, counted=False)


CLASSIFIERS = ("vit", "bert")


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
        return output if self.name in CLASSIFIERS else features["logits"]

    def fresh(self):
        return self.kind.from_pretrained(self.folder).eval()

    def reference(self, net):
        with torch.no_grad():
            found = net(**self.theirs).logits.numpy()
        return found if self.name in CLASSIFIERS else found[:, -7:]

    def close(self, found, wanted, atol=1e-5):
        seen = 1 if self.name in CLASSIFIERS else self.x["mask"][..., None]  # no token of a text
        np.testing.assert_allclose(np.asarray(found) * seen, wanted * seen, rtol=0, atol=atol)


@pytest.fixture(scope="module")
def families(tmp_path_factory):
    known = {}
    return lambda name: (
        known.setdefault(name, None)
        or known.setdefault(name, known.pop(name) or Family(name, tmp_path_factory.mktemp(name)))
    )


FAST = (
    "gpt2-lora",
    "gpt2-adalora",
    "gpt2-ia3",
    "gpt2-vera",
    "gpt2-prompt",
    "llama-oft",
    "llama-prefix",
    "bert-prompt",
    "vit-dora",
)
CASES = [
    *(("gpt2", kind) for kind in ("lora", "rslora", "dora", "adalora", "ia3", "vera", "prompt", "prefix")),
    *(("llama", kind) for kind in ("lora", "rslora", "dora", "loha", "lokr", "ia3", "vera", "oft", "prompt", "prefix")),
    ("bert", "prompt"),
    *(("vit", kind) for kind in ("lora", "rslora", "dora", "loha", "lokr", "ia3", "vera", "oft")),
]
CASES = [pytest.param(*case, marks=[] if "-".join(case) in FAST else pytest.mark.slow) for case in CASES]


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_both_ways(name, kind, families, tmp_path):
    """PEFT's random adapters give PEFT's outputs here; saved again and read by PEFT, the same."""
    family = families(name)
    theirs, draw = peft.get_peft_model(family.fresh(), config_of(kind, name)).eval(), torch.Generator().manual_seed(0)
    for part, value in theirs.named_parameters():
        if any(word in part for word in ("lora_", "hada_", "lokr_", "ia3_", "vera_", "oft_", "prompt_")):
            value.data += 0.3 * torch.randn(value.shape, generator=draw)
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


def perturbed(variables):
    """Every leaf of an adapter moved on its own, as training moves it."""
    draw, flat = np.random.default_rng(3), flatten(variables.params)
    moved = {p: a + 0.3 * draw.normal(size=a.shape).astype(a.dtype) if "/adapter/" in p else a for p, a in flat.items()}
    return variables._replace(params=unflatten(moved))


@pytest.mark.parametrize("kind", ["lora", "rslora", "dora", "pissa"])
def test_layers_of_c_attn_that_were_trained_apart_are_one_of_the_sum_of_their_ranks(kind, families, tmp_path):
    """Two of the three have an adapter: rank 4 of c_attn alone, and PEFT computes what jtl did; twice that of PiSSA."""
    family, options = families("gpt2"), {"rslora": {"rank_stabilised": True}, "dora": {"magnitude": True}}
    options = (options | {"pissa": {"start": "pissa"}}).get(kind, {})
    adapter = ours.lora(2, (".*/attention/(query|value)", ".*/mlp/down"), alpha=6, **options)
    _, variables = ours.attach(family.pretrained.network, family.pretrained.variables, adapter, jax.random.key(0))
    variables = perturbed(variables)
    wanted = family.run(ours.merge(variables, adapter))
    ours.save(tmp_path, family.pretrained, variables, adapter)
    theirs = peft.PeftModel.from_pretrained(family.fresh(), tmp_path).eval()
    ranks = {n: a.shape[0] for n, a in theirs.named_parameters() if "lora_A" in n}
    assert {n: (1 + (kind == "pissa")) * (4 if "c_attn" in n else 2) for n in ranks} == ranks
    family.close(family.reference(theirs), np.asarray(wanted), 2e-5)
    again = ours.load(tmp_path, family.pretrained)
    family.close(family.run(ours.merge(again.variables, again.adapter)), np.asarray(wanted), 2e-5)


def test_what_peft_has_once_for_c_attn_raises_where_it_differs(families, tmp_path):
    family = families("gpt2")
    shared = ours.projections(jax.random.key(0), 4, 12, 36)
    first = {f"block{i}/attention/{part}": 12 * j for i in (1, 2) for j, part in enumerate(("query", "key", "value"))}
    where = (".*/attention/(query|key|value)",)
    for adapter, said in (
        (ours.vera(where, shared, first=first), "values 'd' that differ"),
        (ours.vera(where, shared), r"begin at \[0, 12, 24\]"),
        (ours.ia3((), where), "values 'scale' that differ"),
        (ours.ia3((), (".*/attention/key",)), "not at all of them"),
        (ours.ia3((".*/attention/query",), (".*/attention/key",)), "scales inputs here and outputs there"),
        (ours.prefix_tuning(2, ("block1/attention",)), "'block2/attention'. have no prefix"),
        (ours.adalora(2, where), "values 's' that differ"),
        (ours.loha(2, where), "no LOHA of the layers of GPT-2"),
        (ours.lokr(2, where), "c_attn is 3 layers in jtl, and LoKr"),
        (ours.hra(2, (".*/mlp/down",)), "no HRA of the layers of GPT-2"),
        (ours.oft((".*/mlp/down",), 4), "no OFT of the layers of GPT-2"),
        (ours.fourierft(2, where), "c_attn is 3 layers in jtl, and FourierFT"),
        (ours.lokr(2, where, alphas={".*/query": 3.0}), "c_attn is 3 layers in jtl, and LoKr"),
    ):
        _, variables = ours.attach(family.pretrained.network, family.pretrained.variables, adapter, jax.random.key(0))
        with pytest.raises(ValueError, match=said):
            ours.save(tmp_path, family.pretrained, perturbed(variables), adapter)
    with pytest.raises(ValueError, match=r"of at most \(12, 11\)"):
        ours.attach(
            family.pretrained.network,
            family.pretrained.variables,
            ours.vera((".*/query",), shared, first={"block1/attention/query": 24, "block2/attention/query": 25}),
            jax.random.key(0),
        )


class Timm(torch.nn.Module):
    """A ViT of one width with the names and the fused `qkv` of timm's."""

    def __init__(self, width=12, heads=3, depth=2, classes=3):
        super().__init__()
        nn, self.heads = torch.nn, heads
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, 5, width))
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(3, width, 4, 4)})
        self.blocks = nn.ModuleList(
            nn.ModuleDict(
                {
                    "norm1": nn.LayerNorm(width, 1e-6),
                    "attn": nn.ModuleDict({"qkv": nn.Linear(width, 3 * width), "proj": nn.Linear(width, width)}),
                    "norm2": nn.LayerNorm(width, 1e-6),
                    "mlp": nn.ModuleDict({"fc1": nn.Linear(width, 4 * width), "fc2": nn.Linear(4 * width, width)}),
                }
            )
            for _ in range(depth)
        )
        self.norm, self.head = nn.LayerNorm(width, 1e-6), nn.Linear(width, classes)

    def forward(self, images):
        x = self.patch_embed["proj"](images).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], 1) + self.pos_embed
        for block in self.blocks:
            qkv = block["attn"]["qkv"](block["norm1"](x)).reshape(*x.shape[:2], 3, self.heads, -1)
            y = torch.nn.functional.scaled_dot_product_attention(*qkv.permute(2, 0, 3, 1, 4)).transpose(1, 2)
            x = x + block["attn"]["proj"](y.reshape(x.shape))
            x = x + block["mlp"]["fc2"](torch.nn.functional.gelu(block["mlp"]["fc1"](block["norm2"](x))))
        return self.head(self.norm(x)[:, 0])


@pytest.mark.parametrize("kind", ["lora", "loha", "oft"])
def test_timm_names_both_ways(kind, tmp_path):
    from safetensors.torch import save_file

    net = randomise(Timm()).eval()
    save_file(net.state_dict(), tmp_path / "model.safetensors")
    measures = {"hidden_size": 12, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 48}
    measures |= {"model_type": "vit", "image_size": 8, "patch_size": 4, "layer_norm_eps": 1e-6}
    pretrained = load(tmp_path / "model.safetensors", arch=measures)
    assert pretrained.naming == "timm"
    x, theirs = inputs("vit")
    images = theirs["pixel_values"]

    def reference(net):
        with torch.no_grad():
            return net(images).numpy()

    options = {"lora": lambda at: peft.LoraConfig(r=2, lora_alpha=6, target_modules=at)}
    options |= {"loha": lambda at: peft.LoHaConfig(r=2, alpha=6, target_modules=at)}
    config = options.get(kind, lambda at: peft.OFTConfig(oft_block_size=4, target_modules=at))(["qkv", "fc2"])
    adapted, draw = peft.get_peft_model(copy.deepcopy(net), config).eval(), torch.Generator().manual_seed(0)
    for part, value in adapted.named_parameters():
        if any(word in part for word in ("lora_", "hada_", "oft_")):
            value.data += 0.3 * torch.randn(value.shape, generator=draw)
    adapted.save_pretrained(tmp_path / "theirs")
    wanted = reference(adapted)
    assert np.abs(wanted - reference(net)).max() > 1e-2
    loaded = ours.load(tmp_path / "theirs", pretrained)
    found = jax.jit(lambda v: loaded.network.apply(v, x, train=False)[0].output)(loaded.variables)
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5)
    ours.save(tmp_path / "ours", pretrained, loaded.variables, loaded.adapter)
    again = peft.PeftModel.from_pretrained(copy.deepcopy(net), tmp_path / "ours").eval()
    np.testing.assert_allclose(reference(again), wanted, rtol=0, atol=1e-6)
    if kind == "loha":  # the three layers of qkv trained apart: one of the sum of their ranks
        assert {a.shape for n, a in again.named_parameters() if "qkv.hada_w1_b" in n} == {(2, 12)}
        moved = perturbed(loaded.variables)
        wanted = pretrained.network.apply(ours.merge(moved, loaded.adapter), x, train=False)[0].output
        ours.save(tmp_path / "apart", pretrained, moved, loaded.adapter)
        again = peft.PeftModel.from_pretrained(copy.deepcopy(net), tmp_path / "apart").eval()
        np.testing.assert_allclose(reference(again), wanted, rtol=0, atol=2e-5)
        assert {a.shape for n, a in again.named_parameters() if "qkv.hada_w1_b" in n} == {(6, 12)}
        config = peft.LoKrConfig(r=2, target_modules=["qkv"])
        peft.get_peft_model(copy.deepcopy(net), config).save_pretrained(tmp_path / "lokr")
        with pytest.raises(ValueError, match=r"qkv\.lokr_w1: is LoKr of a layer that is 3 in jtl"):
            ours.load(tmp_path / "lokr", pretrained)


@pytest.mark.slow
@pytest.mark.compiling
@pytest.mark.parametrize("kind", ["prompt", "prefix"])
def test_trains_as_peft(kind, families, tmp_path):
    """The losses of 200 steps of AdamW on GPT-2's prompt or prefix alone, in float64, are PEFT's to 1e-5."""
    folder, rate = families("gpt2").folder, 3e-2 if kind == "prompt" else 3e-3
    ids, labels = np.random.default_rng(5).integers(2, 40, (2, 3, 7)).astype(np.int32)
    theirs = peft.get_peft_model(transformers.GPT2LMHeadModel.from_pretrained(folder).double(), config_of(kind, "gpt2"))
    theirs = theirs.double().eval()
    theirs.save_pretrained(tmp_path)
    with jax.enable_x64(True):
        loaded = ours.load(tmp_path, load(folder, dtype=jnp.float64))
        learned, frozen = split(loaded.variables.params, select("backbone/adapter/.*"))
        tx, x = optax.adamw(rate, weight_decay=0.01), {"ids": ids, "mask": np.ones((3, 7), bool)}

        def loss(learned):
            variables = loaded.variables._replace(params=merge(learned, frozen))
            logits = loaded.network.apply(variables, x, train=False)[0].features["logits"]
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

        @jax.jit
        def run(learned):
            def step(carry, _):
                learned, opt = carry
                value, grads = jax.value_and_grad(loss)(learned)
                updates, opt = tx.update(grads, opt, learned)
                return (optax.apply_updates(learned, updates), opt), value

            return jax.lax.scan(step, (learned, tx.init(learned)), None, 200)[1]

        found = np.asarray(run(jax.tree.map(jnp.asarray, learned)))
    adam = torch.optim.AdamW([p for p in theirs.parameters() if p.requires_grad], rate, weight_decay=0.01)
    given, wanted = {"input_ids": torch.tensor(ids).long(), "attention_mask": torch.ones(3, 7).long()}, []
    for _ in range(200):
        logits = theirs(**given).logits[:, -7:]
        value = torch.nn.functional.cross_entropy(logits.flatten(0, 1), torch.tensor(labels).long().flatten())
        adam.zero_grad()
        value.backward()
        adam.step()
        wanted.append(value.item())
    assert found.dtype == np.float64
    assert wanted[-1] < wanted[0] - 0.1
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5)
