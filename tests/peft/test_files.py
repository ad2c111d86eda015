"""Files of PEFT both ways, on a small random BERT of transformers."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from running import forward

from jtl import peft as ours
from jtl.params import flatten, merge, select, split, unflatten
from jtl.peft.lora import rank_and_scale
from jtl.pretrained.load import load

torch = pytest.importorskip("torch", reason="torch is the reference; it is installed for Python 3.11 only")
pytest.importorskip("transformers")
peft = pytest.importorskip("peft", reason="PEFT is the reference of its own files")

from hf_convnets import hf_bit, hf_convnext
from text_references import hf_text, texts, to_torch

LAYERS = ["query", "value", "output.dense"]
CONFIGS = {
    "lora": {"r": 2, "lora_alpha": 6, "target_modules": LAYERS},
    "rslora": {"r": 3, "lora_alpha": 6, "target_modules": LAYERS, "use_rslora": True},
    "patterns": {
        "r": 2,
        "lora_alpha": 6,
        "target_modules": LAYERS,
        "rank_pattern": {"query": 4, "layer.1.output.dense": 3},
        "alpha_pattern": {"value": 9, r"^bert\.encoder\.layer\.0\.attention\.self\.query": 1},
    },
    "rs_patterns": {
        "r": 2,
        "lora_alpha": 6,
        "target_modules": LAYERS,
        "use_rslora": True,
        "rank_pattern": {"value": 3},
        "alpha_pattern": {"query": 5},
    },
    "dora": {"r": 2, "lora_alpha": 6, "target_modules": LAYERS, "use_dora": True},
    "adalora_pruned": {"init_r": 3, "lora_alpha": 6, "target_modules": LAYERS, "total_step": 9},
    "loha": {
        "r": 2,
        "alpha": 6,
        "target_modules": LAYERS,
        "rank_pattern": {"query": 3},
        "alpha_pattern": {"layer.1.output.dense": 1},
    },
    "lokr": {  # w2 whole in some layers, w1 and w2 of low rank in others
        "r": 2,
        "alpha": 6,
        "target_modules": LAYERS,
        "decompose_both": True,
        "decompose_factor": 6,
        "rank_pattern": {"query": 1},
        "alpha_pattern": {"layer.1.output.dense": 1},
    },
    "vera": {"r": 6, "target_modules": LAYERS, "save_projection": True},
    "oft": {"oft_block_size": 4, "target_modules": ["query", "value"], "use_cayley_neumann": False},
    "oft_series": {"oft_block_size": 4, "target_modules": ["query", "value"]},
    "fourierft": {"n_frequency": 50, "target_modules": LAYERS, "n_frequency_pattern": {"layer.1.output.dense": 70}},
    "hra": {"r": 3, "target_modules": LAYERS},
    "ia3": {"target_modules": ["key", "output.dense"], "feedforward_modules": ["output.dense"]},
}


KINDS = {
    "adalora_pruned": peft.AdaLoraConfig,
    "loha": peft.LoHaConfig,
    "lokr": peft.LoKrConfig,
    "ia3": peft.IA3Config,
    "fourierft": peft.FourierFTConfig,
    "hra": peft.HRAConfig,
    "vera": peft.VeraConfig,
    "oft": peft.OFTConfig,
    "oft_series": peft.OFTConfig,
}


def config_of(kind):
    return KINDS.get(kind, peft.LoraConfig)(**CONFIGS[kind])


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bert")
    hf_text("bert").save_pretrained(folder)
    return folder


def fresh(folder):
    import transformers

    return transformers.BertForSequenceClassification.from_pretrained(folder).eval()


def logits(net):
    with torch.no_grad():
        return net(**to_torch(texts("bert"))).logits.numpy()


@pytest.mark.parametrize("kind", CONFIGS)
@pytest.mark.filterwarnings("ignore")  # PEFT's and transformers' own
def test_both_ways(kind, base, tmp_path):
    """PEFT's random adapters give PEFT's logits here; saved again and read by PEFT, the same; merged too."""
    config = config_of(kind)
    theirs, draw = peft.get_peft_model(fresh(base), config).eval(), torch.Generator().manual_seed(0)
    for name, value in theirs.named_parameters():
        if any(part in name for part in ("lora_", "hada_", "lokr_", "ia3_", "vera_", "oft_", "fourierft_", "hra_")):
            value.data += 0.5 * torch.randn(value.shape, generator=draw)
    if kind == "adalora_pruned":  # as its allocator does: some ranks off, and all of one layer
        names = [name for name, _ in theirs.base_model.model.named_parameters() if "lora_E" in name]
        config.rank_pattern = {name: [i % 3 > 0, i > 0, i % 2 > 0] for i, name in enumerate(names)}
        theirs.base_model.rankallocator.mask_using_rank_pattern(theirs.base_model.model, config.rank_pattern)
    theirs.save_pretrained(tmp_path / "theirs")
    wanted, pretrained = logits(theirs), load(base)
    loaded = ours.load(tmp_path / "theirs", pretrained)
    found = jax.jit(lambda v: forward(loaded.network, train=False)(v, texts("bert"), None)[1])(loaded.variables)
    assert np.abs(wanted - logits(fresh(base))).max() > 1e-2
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5)
    ours.save(tmp_path / "ours", pretrained, loaded.variables, loaded.adapter)
    again = peft.PeftModel.from_pretrained(fresh(base), tmp_path / "ours").eval()
    np.testing.assert_allclose(logits(again), wanted, rtol=0, atol=1e-6)
    same = ours.load(tmp_path / "ours", pretrained)
    jax.tree.map(np.testing.assert_array_equal, same.variables, loaded.variables)
    if config.peft_type in ("LORA", "LOHA", "LOKR"):
        modules = {path.rpartition("/")[0] for path in flatten(loaded.variables.params["backbone"]["adapter"])}
        for module in modules:
            assert rank_and_scale(same.adapter.config, module) == rank_and_scale(loaded.adapter.config, module)
    if kind == "adalora_pruned":
        pattern = json.loads((tmp_path / "ours" / "adapter_config.json").read_text())["rank_pattern"]
        shapes = {np.shape(s)[0] for path, s in flatten(loaded.variables.params).items() if path.endswith("/s")}
        assert shapes == {sum(left) for left in pattern.values()} == {0, 1, 2, 3}
    merged = ours.merge(loaded.variables, loaded.adapter)
    found = jax.jit(lambda v: forward(pretrained.network, train=False)(v, texts("bert"), None)[1])(merged)
    np.testing.assert_allclose(found, wanted, rtol=0, atol=2e-5)


@pytest.mark.parametrize("kind", ["lora", "ia3"])
@pytest.mark.filterwarnings("ignore")  # PEFT's and transformers' own
def test_a_head_that_was_trained_is_in_the_file(kind, base, tmp_path):
    """Without it PEFT, and jtl, had the adapters below the first head: other logits, without a word."""
    pretrained = load(base)
    peft.get_peft_model(fresh(base), config_of(kind)).save_pretrained(tmp_path / "theirs")
    net, variables, adapter = ours.load(tmp_path / "theirs", pretrained)
    params = dict(variables.params)
    params["head"] = jax.tree.map(lambda a: a + 0.3 * jnp.arange(a.size).reshape(a.shape), params["head"])
    wanted = forward(net, train=False)(variables._replace(params=params), texts("bert"), None)[1]
    ours.save(tmp_path / "ours", pretrained, variables._replace(params=params), adapter)
    again = peft.PeftModel.from_pretrained(fresh(base), tmp_path / "ours").eval()
    np.testing.assert_allclose(logits(again), wanted, rtol=0, atol=1e-5)
    same = ours.load(tmp_path / "ours", pretrained)
    jax.tree.map(np.testing.assert_array_equal, same.variables.params["head"], params["head"])
    assert net.classes == pretrained.network.classes is not None
    flat = flatten(params["backbone"])
    norm = next(path for path in flat if path.endswith("scale") and "adapter" not in path)
    params["backbone"] = unflatten(flat | {norm: flat[norm] + 1})
    with pytest.raises(ValueError, match=f"'backbone/{norm}' and 0 more parameters beside the adapters are not those"):
        ours.save(tmp_path / "lost", pretrained, variables._replace(params=params), adapter)
    assert not (tmp_path / "lost").exists()


def test_a_head_that_peft_gives_other_features_is_told(base, tmp_path, caplog):
    """transformers' classifier reads the pooled token, whatever jtl's head reads."""
    adapter = ours.lora(2, (".*/query",))
    for reads, trained, told in ((None, 0.1, 0), ("mean", 0.0, 0), ("mean", 0.1, 1)):
        caplog.clear()
        pretrained = load(base, reads=reads)
        _, variables = ours.attach(pretrained.network, pretrained.variables, adapter, jax.random.key(0))
        params = variables.params | {"head": jax.tree.map(lambda a, b=trained: a + b, variables.params["head"])}
        ours.save(tmp_path / "adapter", pretrained, variables._replace(params=params), adapter)
        assert sum("which PEFT's files cannot say" in message for message in caplog.messages) == told


@pytest.mark.parametrize(
    "options",
    [{}, {"use_rslora": True, "rank_pattern": {"query": 3}, "alpha_pattern": {"value": 9}}, {"use_dora": True}],
    ids=str,
)
@pytest.mark.filterwarnings("ignore")  # PEFT's and transformers' own
def test_pissa_both_ways(options, base, tmp_path):
    """PEFT's, which takes its start out of the base again, is read so; written it is LoRA of twice the rank."""
    config = peft.LoraConfig(r=2, lora_alpha=6, target_modules=LAYERS, init_lora_weights="pissa", **options)
    theirs, draw = peft.get_peft_model(fresh(base), config).eval(), torch.Generator().manual_seed(0)
    np.testing.assert_allclose(logits(theirs), logits(fresh(base)), rtol=0, atol=2e-5)
    for name, value in theirs.named_parameters():
        if "lora_" in name:
            value.data += 0.3 * torch.randn(value.shape, generator=draw)
    theirs.save_pretrained(tmp_path / "theirs")
    wanted, pretrained = logits(theirs), load(base)
    assert np.abs(wanted - logits(fresh(base))).max() > 1e-2
    net, variables, adapter = ours.load(tmp_path / "theirs", pretrained)
    run = jax.jit(lambda v: forward(net, train=False)(v, texts("bert"), None)[1])
    np.testing.assert_allclose(run(variables), wanted, rtol=0, atol=2e-5)
    ours.save(tmp_path / "ours", pretrained, variables, adapter)
    again = peft.PeftModel.from_pretrained(fresh(base), tmp_path / "ours").eval()
    np.testing.assert_allclose(logits(again), wanted, rtol=0, atol=2e-5)
    ranks = {name: a.shape[0] for name, a in again.named_parameters() if "lora_A" in name}
    assert ranks == {name: 6 if "rank_pattern" in options and "query" in name else 4 for name in ranks}
    before, params = flatten(pretrained.variables.params), flatten(variables.params)
    plain = flatten(ours.load(tmp_path / "ours", pretrained).variables.params)
    changed = {path for path, leaf in before.items() if not np.array_equal(params[path], leaf)}
    assert len(changed) == len(ranks)
    assert all(np.array_equal(plain[path], leaf) for path, leaf in before.items())
    path = min(changed)
    moved = variables._replace(params=unflatten(params | {path: 1.001 * params[path]}))
    with pytest.raises(ValueError, match="is not what PiSSA's start leaves of the pretrained one"):
        ours.save(tmp_path / "lost", pretrained, moved, adapter)


@pytest.mark.parametrize("start", ["zero", "pissa"])
def test_a_quantised_base_stands_for_the_one_that_was_loaded(start, base, tmp_path):
    """The files of adapters beside it are those of the same adapters beside the whole base."""
    pretrained, adapter = load(base), ours.lora(2, (".*/query",), start=start)
    net, variables = ours.attach(pretrained.network, pretrained.variables, adapter, jax.random.key(0))
    _, small = ours.quantise(net, variables, (".*/(query|value)",), "int8", block=4)
    for name, saved in (("whole", variables), ("small", small)):
        ours.save(tmp_path / name, pretrained, saved, adapter)
    for file in ("adapter_config.json", "adapter_model.safetensors"):
        assert (tmp_path / "whole" / file).read_bytes() == (tmp_path / "small" / file).read_bytes()


def test_numbers_of_numpy_are_those_of_python(base, tmp_path):
    pretrained, whole = load(base), ours.lokr(2, (".*/(query|value)",), factor=2)
    _, variables = ours.attach(pretrained.network, pretrained.variables, whole, jax.random.key(0))
    theirs = whole._replace(config={**whole.config, "decompose_factor": np.int64(2)})
    for name, adapter in (("python", whole), ("numpy", theirs)):
        ours.save(tmp_path / name, pretrained, variables, adapter)
    written = [(tmp_path / name / "adapter_config.json").read_text() for name in ("python", "numpy")]
    assert written[0] == written[1]


PATCHES = ["patch_embeddings", "downsampling_layer.1"]
IMAGES = {
    "lora": lambda: peft.LoraConfig(r=2, lora_alpha=6, target_modules=PATCHES),
    "dora": lambda: peft.LoraConfig(r=2, lora_alpha=6, target_modules=PATCHES, use_dora=True),
    "loha": lambda: peft.LoHaConfig(r=2, alpha=3, target_modules=PATCHES),
    "loha_core": lambda: peft.LoHaConfig(r=2, alpha=3, target_modules=PATCHES, use_effective_conv2d=True),
    "lokr": lambda: peft.LoKrConfig(r=2, alpha=3, target_modules=PATCHES),
    "lokr_core": lambda: peft.LoKrConfig(r=2, alpha=3, target_modules=PATCHES, use_effective_conv2d=True),
    "ia3": lambda: peft.IA3Config(target_modules=PATCHES, feedforward_modules=["downsampling_layer.1"]),
}


@pytest.mark.parametrize("kind", IMAGES)
@pytest.mark.filterwarnings("ignore")
def test_convolutions_both_ways(kind, tmp_path):
    """Adapters of ConvNeXt's convolutions of patches: PEFT's logits here, merged, and again from the written file."""
    import transformers

    hf_convnext(num_channels=3).save_pretrained(tmp_path)

    def fresh():
        return transformers.ConvNextForImageClassification.from_pretrained(tmp_path).eval()

    images = np.random.default_rng(0).normal(size=(2, 32, 32, 3)).astype(np.float32)

    def logits(net):
        with torch.no_grad():
            return net(torch.tensor(images).permute(0, 3, 1, 2)).logits.numpy()

    theirs, draw = peft.get_peft_model(fresh(), IMAGES[kind]()).eval(), torch.Generator().manual_seed(0)
    for name, value in theirs.named_parameters():
        if any(part in name for part in ("lora_", "hada_", "lokr_", "ia3_")):
            value.data += 0.5 * torch.randn(value.shape, generator=draw)
    theirs.save_pretrained(tmp_path / "theirs")
    wanted, pretrained = logits(theirs), load(tmp_path)
    loaded = ours.load(tmp_path / "theirs", pretrained)
    assert np.abs(wanted - logits(fresh())).max() > 1e-2
    found = jax.jit(lambda v: loaded.network.apply(v, images, train=False)[0].output)(loaded.variables)
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=2e-5)
    merged = ours.merge(loaded.variables, loaded.adapter)
    found = jax.jit(lambda v: pretrained.network.apply(v, images, train=False)[0].output)(merged)
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=2e-5)
    ours.save(tmp_path / "ours", pretrained, loaded.variables, loaded.adapter)
    again = peft.PeftModel.from_pretrained(fresh(), tmp_path / "ours").eval()
    np.testing.assert_allclose(logits(again), wanted, rtol=0, atol=1e-5)


@pytest.mark.filterwarnings("ignore")
def test_standardised_convolutions_have_no_file(tmp_path):
    hf_bit().save_pretrained(tmp_path / "net")
    pretrained = load(tmp_path / "net")
    kernels = [p for p, leaf in flatten(pretrained.variables.params["backbone"]).items() if leaf.ndim == 4]
    adapter = ours.lora(1, (kernels[-1].removesuffix("/kernel"),))
    _, variables = ours.attach(pretrained.network, pretrained.variables, adapter, jax.random.key(0))
    with pytest.raises(ValueError, match="standardised after its update"):
        ours.save(tmp_path / "adapter", pretrained, variables, adapter)


@pytest.mark.filterwarnings("ignore")
def test_what_is_not_read_raises(base, tmp_path):
    peft.get_peft_model(fresh(base), peft.LoraConfig(r=2, target_modules=["query"])).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    pretrained = load(base)
    for change, said in (
        ({"bias": "all"}, "'bias': 'all'"),
        ({"rank_pattern": {"query": 4}}, "the network has"),
        ({"peft_type": "BOFT"}, "'BOFT'"),
        ({"r": 3}, "the network has"),
        ({"use_dora": True}, "lacks"),
    ):
        (tmp_path / "adapter_config.json").write_text(json.dumps(config | change))
        with pytest.raises(ValueError, match=said):
            ours.load(tmp_path, pretrained)


@pytest.mark.filterwarnings("ignore")
def test_what_is_not_read_of_other_adapters_raises(base, tmp_path):
    pretrained = load(base)
    for kind, change, said in (
        ("vera", {"save_projection": False}, "save VeRA with save_projection=True"),
        ("loha", {"module_dropout": 0.1}, "'module_dropout': 0.1"),
        ("loha", {"rank_dropout": 0.1}, "'rank_dropout': 0.1"),
        ("oft", {"coft": True}, "'coft': True"),
        ("oft", {"block_share": True}, "'block_share': True"),
        ("hra", {"apply_GS": True}, "'apply_GS': True"),
        ("oft", {"oft_block_size": 0, "r": 2, "target_modules": ["query", "intermediate.dense"]}, None),
    ):
        folder = tmp_path / f"{kind}{said}"
        peft.get_peft_model(fresh(base), KINDS[kind](**CONFIGS[kind] | change)).save_pretrained(folder)
        if said is None:  # a number of blocks, not their size: 12 inputs in 2
            assert "4 adapted modules" in ours.summary(ours.load(folder, pretrained).variables)
            continue
        with pytest.raises(ValueError, match=said):
            ours.load(folder, pretrained)
    config = json.loads((folder / "adapter_config.json").read_text())
    del config["use_cayley_neumann"]
    (folder / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="older PEFT"):
        ours.load(folder, pretrained)


@pytest.mark.slow
@pytest.mark.compiling
@pytest.mark.parametrize("kind", ["lora", "rslora", "dora", "loha", "lokr", "ia3", "vera", "oft"])
@pytest.mark.filterwarnings("ignore")
def test_trains_as_peft(kind, base, tmp_path):
    """The losses of 200 steps of AdamW on the adapters alone, in float64, are PEFT's to 1e-5."""
    labels, rate = np.array([0, 2, 1]), 3e-3
    config = config_of(kind)
    theirs = peft.get_peft_model(fresh(base).double(), config).double().eval()
    theirs.save_pretrained(tmp_path)
    with jax.enable_x64(True):
        loaded = ours.load(tmp_path, load(base, dtype=jnp.float64))
        learned, frozen = split(loaded.variables.params, select("backbone/adapter/.*"))
        tx, x = optax.adamw(rate, weight_decay=0.01), texts("bert")

        def loss(learned, frozen):
            variables = loaded.variables._replace(params=merge(learned, frozen))
            output = forward(loaded.network, train=False)(variables, x, None)[1]
            return optax.softmax_cross_entropy_with_integer_labels(output, labels).mean()

        @jax.jit
        def run(learned, frozen):
            def step(carry, _):
                learned, opt = carry
                value, grads = jax.value_and_grad(loss)(learned, frozen)
                updates, opt = tx.update(grads, opt, learned)
                return (optax.apply_updates(learned, updates), opt), value

            return jax.lax.scan(step, (learned, tx.init(learned)), None, 200)[1]

        found = np.asarray(run(jax.tree.map(jnp.asarray, learned), frozen))
    adam = torch.optim.AdamW([p for p in theirs.parameters() if p.requires_grad], rate, weight_decay=0.01)
    wanted = []
    for _ in range(200):
        value = torch.nn.functional.cross_entropy(theirs(**to_torch(x)).logits, torch.tensor(labels))
        adam.zero_grad()
        value.backward()
        adam.step()
        wanted.append(value.item())
    assert found.dtype == np.float64
    assert wanted[-1] < wanted[0] - 0.1
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5)
