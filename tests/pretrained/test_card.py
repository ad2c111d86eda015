"""The model card, read by huggingface_hub."""

import jax.numpy as jnp
import made
import numpy as np
import pytest
from huggingface_hub import ModelCard

from jtl.pretrained.card import Card, readme
from jtl.pretrained.load import load
from jtl.pretrained.save import save

CARD = Card(
    title="Ants and bees",
    data="Two kinds, from the hymenoptera set.",
    recipe="jtl train ants.py",
    metrics={"accuracy": 0.95, "loss": 0.12345},
    base="google/vit-base-patch16-224",
    license="apache-2.0",
    tags=("insects",),
)


@pytest.mark.parametrize(("format", "library"), [("hf", "transformers"), ("jtl", "jtl")])
def test_the_hub_reads_it(format, library, tmp_path):
    loaded = load(made.folder(tmp_path / "in", made.VIT), classes=("ant", "bee", "wasp"))
    save(tmp_path / "out", loaded, format=format, card=CARD)
    card = ModelCard.load(tmp_path / "out" / "README.md")
    assert card.data.to_dict() == {
        "library_name": library,
        "tags": ["jtl", "vit", "insects"],
        "license": "apache-2.0",
        "base_model": "google/vit-base-patch16-224",
    }
    for said in (
        "# Ants and bees",
        CARD.data,
        CARD.recipe,
        "| accuracy | 0.95 |",
        "| loss | 0.1235 |",
        "ant, bee, wasp",
    ):
        assert said in card.text


def test_a_save_without_a_card_leaves_the_old_one(tmp_path):
    loaded = load(made.folder(tmp_path / "in", made.VIT))
    save(tmp_path / "out", loaded, card=CARD)
    before = (tmp_path / "out" / "README.md").read_text()
    save(tmp_path / "out", loaded)
    assert (tmp_path / "out" / "README.md").read_text() == before


def test_nothing_that_is_said_escapes_into_the_header():
    tags = ("a: b", "- c", "---\nlicense: mit", "'quoted\"", "yes", "ż 🐝")
    card = ModelCard(readme(Card("T", "D", "R", tags=tags), "vit", "jtl", None))
    assert card.data.to_dict() == {"library_name": "jtl", "tags": ["jtl", "vit", *tags]}


def test_a_name_stays_in_its_line():
    text = readme(Card("T\n---", "D", "R", {"top|1\n": 0.5}), "vit", "jtl", ("ant\n\n# bee", "wasp"))
    assert "\n# T ---\n" in text
    assert "\n| top\\|1 | 0.5 |\n" in text
    assert text.endswith("\n\nant # bee, wasp\n")


def test_a_card_says_something():
    with pytest.raises(ValueError, match=r"Card\(data=' '\): say it"):
        Card("T", " ", "R")
    with pytest.raises(TypeError, match="tags='insects' is a string"):
        Card("T", "D", "R", tags="insects")


@pytest.mark.parametrize("number", [0.5, np.array(0.5), jnp.array(0.5)])
def test_a_metric_is_a_single_number(number):
    """Else it fails after the training, where the network is saved, by Python's words on formats."""
    assert "| accuracy | 0.5 |" in readme(Card("T", "D", "R", {"accuracy": number}), "vit", "jtl", None)
    with pytest.raises(TypeError, match=r"metrics: 'accuracy' is '\[0\.5 0\.5\]'; give a single number"):
        Card("T", "D", "R", {"accuracy": np.stack([number, number])})
