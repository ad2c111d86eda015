"""Networks of sentence-transformers, against it."""

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import jax
import made
import numpy as np
import pytest
from huggingface_hub import hf_hub_download
from loading import close, same_bits, tree_of
from running import forward

from jtl.params import flatten
from jtl.preprocess import text
from jtl.preprocess.tokenizer_files import Vocabulary
from jtl.pretrained.load import load
from jtl.pretrained.save import save
from jtl.pretrained.sentence_embedding import embedder
from jtl.weights import WeightNameError

KINDS = {"mean": 12, "cls": 12, "several": 48, "prompted": 12, "unpooled": 48, "decoder": 12, "decoder_left": 36}
TEXTS = ["a b c", "d", "", "a a b b c c d d a a", "d c b a"]


@pytest.fixture(scope="module")
def theirs():
    """`theirs("make", folder)` and `theirs("embed", folder)` of the process that holds sentence-transformers."""
    if find_spec("sentence_transformers") is None:
        pytest.skip("sentence-transformers is the reference; it is installed for Python 3.11 only")
    script = Path(__file__).parents[1] / "support" / "sentence_references.py"
    process = subprocess.Popen([sys.executable, str(script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(what, folder):
        sent, received = process.stdin, process.stdout
        assert sent is not None
        assert received is not None
        sent.write(json.dumps({"do": what, "folder": str(folder), "texts": TEXTS}) + "\n")
        sent.flush()
        assert received.readline() == "done\n"  # what went wrong stands in the test's captured output

    yield ask
    process.communicate()


@pytest.fixture(scope="module")
def folder(theirs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("sentences")
    theirs("make", folder)
    return folder


def embedded(loaded, x):
    run = forward(loaded.network, train=False)
    return jax.jit(lambda v, x: run(v, x, None)[0]["pooled"])(loaded.variables, x)


@pytest.mark.slow
@pytest.mark.compiling
def test_embeddings_are_sentence_transformers_both_ways(theirs, folder):
    """By its folders, which are then written and read by both: the same embeddings to 1e-5, and the same bits here."""
    for kind in KINDS:
        loaded = embedder(folder / kind)
        x = text.tokenizer(folder / kind, length=8)(TEXTS)
        wanted = np.load(folder / f"{kind}.npy")
        assert wanted.shape == (len(TEXTS), KINDS[kind])
        close(embedded(loaded, x), wanted, 1e-5, kind)
        save(folder / f"{kind}_ours", loaded)
        for again in (embedder(folder / f"{kind}_ours"), load(folder / f"{kind}_ours")):
            same_bits(*(dict(flatten(tree_of(one))) for one in (again, loaded)))
            again_x = text.tokenizer(again.tokenizer, length=8)(TEXTS)
            np.testing.assert_array_equal(embedded(again, again_x), embedded(loaded, x))
    theirs("embed", folder)
    for kind in KINDS:
        close(np.load(folder / f"{kind}_ours.npy"), np.load(folder / f"{kind}.npy"), 1e-6, kind)


def described(folder, pooling, kinds=("models.Transformer", "models.Pooling"), config=made.BERT):
    """A network as the first versions of sentence-transformers describe one."""
    made.folder(folder, config)
    paths = ("", "1_Pooling", "2_Normalize")
    rows = [{"idx": i, "name": str(i), "path": paths[i], "type": kind} for i, kind in enumerate(kinds)]
    (folder / "modules.json").write_text(json.dumps(rows))
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    return folder


FIRST = {"word_embedding_dimension": 12, "pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True}


def test_a_head_on_embeddings_is_saved_by_jtls_names_alone(tmp_path):
    """transformers' classifier would see its own pooler in place of the mean."""
    loaded = embedder(described(tmp_path / "in", FIRST), classes=("good", "bad"), reinit=("head/.*",), unused=("cl.*",))
    x = {"ids": np.array([[2, 5, 6, 3]], np.int32), "mask": np.array([[True, True, True, False]])}
    with pytest.raises(WeightNameError, match="head/out"):
        save(tmp_path / "hf", loaded)
    save(tmp_path / "jtl", loaded, format="jtl")
    again = load(tmp_path / "jtl")
    assert again.labels == ("good", "bad")
    features = jax.jit(lambda v: forward(again.network, train=False)(v, x, None)[0])(again.variables)
    np.testing.assert_array_equal(features["pooled"], features["mean"])


LLAMA = {**made.BERT, "model_type": "llama", "hidden_size": 24}
GPT2 = {"model_type": "gpt2", "n_embd": 12, "n_layer": 1, "n_head": 3, "vocab_size": 12, "n_positions": 16}


@pytest.mark.parametrize("config", [LLAMA, GPT2], ids=lambda config: config["model_type"])
def test_a_decoder_gives_the_embedding_too(config, tmp_path):
    """By the modules' words, the first versions' names of the ways among them."""
    ways = {"pooling_mode_lasttoken": True, "pooling_mode_weightedmean_tokens": True}
    folder = described(tmp_path, ways, ("Transformer", "Pooling", "Normalize"), config)
    (folder / "2_Normalize").mkdir()
    loaded = embedder(folder, unused=(r"score\..*",))
    x = {"ids": np.array([[0, 5, 6, 3]], np.int32), "mask": np.array([[False, True, True, True]])}
    features = loaded.network.apply(loaded.variables, x, train=False)[0].features
    tokens = np.asarray(features["last"], np.float64)[0, 1:]
    wanted = np.concatenate([np.average(tokens, 0, [1, 2, 3]), tokens[-1]])
    np.testing.assert_allclose(features["pooled"][0], wanted / np.linalg.norm(wanted), rtol=1e-4, atol=1e-6)


def test_a_network_without_embeddings_is_refused(tmp_path):
    """A pooling that nobody reads would lie in the config in silence."""
    with pytest.raises(ValueError, match=r"of a 'vit' no embedding is read, only of bert, .*qwen3"):
        embedder(described(tmp_path, FIRST, config=made.VIT))


@pytest.mark.parametrize(
    ("pooling", "kinds", "said"),
    [
        (
            {"pooling_mode_first_two": True},
            ("Transformer", "Pooling"),
            r"pools by \"\['pooling_mode_first_two'\]\"; known",
        ),
        ({"pooling_mode": "first_two"}, ("Transformer", "Pooling"), "pools by .*first_two.*; known are"),
        ({}, ("Transformer", "Pooling"), "pools by .*; known are"),
        (FIRST, ("Transformer", "Pooling", "Dense"), "has .*Dense.*; read are a Transformer in the folder itself"),
        (FIRST, ("Transformer",), "has .*Transformer.*; read are"),
        (FIRST, ("Transformer", 3), "is no module: give its type and its folder"),
    ],
)
def test_other_modules_are_refused(tmp_path, pooling, kinds, said):
    with pytest.raises(ValueError, match=said):
        embedder(described(tmp_path, pooling, kinds))


def test_what_is_no_folder_of_sentence_transformers_is_refused(tmp_path):
    made.folder(tmp_path, made.BERT)
    with pytest.raises(FileNotFoundError, match=r"has no modules\.json.*use jtl\.load"):
        embedder(tmp_path)
    with pytest.raises(ValueError, match="pooling='mean': give a list of 1 to 8, each a text"):
        load(tmp_path, arch={**made.BERT, "embedding": {"pooling": "mean", "normalise": True}})
    with pytest.raises(ValueError, match=r"pooling='most': give one of \['cls'"):
        load(tmp_path, arch={**made.BERT, "embedding": {"pooling": ["most"], "normalise": True}})
    described(tmp_path / "x", FIRST)
    (tmp_path / "x" / "sentence_bert_config.json").write_text('{"do_lower_case": true}')
    with pytest.raises(ValueError, match="has do_lower_case: lower the texts"):
        embedder(tmp_path / "x")


def test_modules_that_another_library_left_on_the_hub_are_fetched(hub, tmp_path):
    """transformers asks a repository for its network and its tokens alone."""
    folder = described(tmp_path / "in", FIRST)
    hub.commit("org/sentences", {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()})
    for name in ("config.json", "model.safetensors"):
        hf_hub_download("org/sentences", name)
    loaded = embedder("hf:org/sentences", classes=2, reinit=("head/.*",), unused=("cl.*",))
    assert loaded.config.to_dict()["embedding"] == {"pooling": ["mean"], "normalise": False}


def test_prompts_are_named_and_saved(tmp_path):
    """What `encode` puts before a text comes with the tokenizer: by default, by name, or not at all."""
    folder = described(tmp_path / "in", {**FIRST, "include_prompt": False})
    (folder / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "b", "c", "d"]))
    prompts = {"prompts": {"query": "b c ", "passage": "d "}, "default_prompt_name": "query"}
    (folder / "config_sentence_transformers.json").write_text(json.dumps(prompts))
    made = {name: text.tokenizer(folder, length=8, prompt=name) for name in (None, "query", "passage", "")}
    ids = {name: one(["a"])["ids"][0, :6].tolist() for name, one in made.items()}
    assert ids[None] == ids["query"] == [2, 6, 7, 5, 3, 0]
    assert ids["passage"] == [2, 8, 5, 3, 0, 0]
    assert ids[""] == [2, 5, 3, 0, 0, 0]
    assert made[None](["a"])["prompt"][0].tolist() == [True] * 3 + [False] * 5  # [CLS] b c
    assert "prompt" not in made[""](["a"])
    with pytest.raises(ValueError, match=r"there is no prompt 'other'; there are \['passage', 'query'\]"):
        text.tokenizer(folder, length=8, prompt="other")
    with pytest.raises(ValueError, match="pairs with the prompt 'b c '"):
        made[None](["a"], ["b"])
    save(tmp_path / "both", embedder(folder, classes=2, reinit=("head/.*",), unused=("cl.*",)), format="jtl")
    assert (tmp_path / "both" / "config_sentence_transformers.json").exists()
    save(
        tmp_path / "both", load(folder)._replace(tokenizer=Vocabulary(folder, ("vocab.txt",)))
    )  # the transformer alone, whose texts have no prompt
    assert not {p.name for p in (tmp_path / "both").iterdir()} & {"modules.json", "config_sentence_transformers.json"}
    made["query"].save(tmp_path / "alone")
    assert text.tokenizer(tmp_path / "alone", length=8)(["a"])["ids"][0, :6].tolist() == ids["query"]
    loaded = embedder(folder, classes=2, reinit=("head/.*",), unused=("cl.*",))
    x = made[None](["a"])
    with pytest.raises(ValueError, match="prompt"):  # which only an embedding leaves out
        load(folder, classes=2, reinit=("head/.*",), unused=("cl.*",)).network.apply(loaded.variables, x, train=False)
    seen = {name: np.asarray(array) for name, array in x.items() if name != "prompt"}
    features = loaded.network.apply(loaded.variables, seen, train=False)[0].features
    wanted = np.asarray(features["last"])[0, 3:5].mean(0)  # of "a" and [SEP]
    np.testing.assert_allclose(embedded(loaded, x)[0], wanted, rtol=1e-5)
