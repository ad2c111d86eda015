"""Labels mean classes, which are matched by name."""

import unicodedata

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from nets import dense, top
from PIL import Image

import jtl
from jtl.data.folder import scan
from jtl.data.pipeline import matched

NAMES = ("ant", "bee", "cat", "dog", "eel")


def images(root, *names):
    for name in names:
        (root / name).mkdir(parents=True)
        Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(root / name / "1.png")
    return root


def always_eel():
    """A network of five classes that knows their names, and gives every row the last one."""
    net = jtl.network(backbone=dense(4), head=top(5))._replace(classes=NAMES)
    variables = net.init(jax.random.key(0), jnp.zeros((2, 48)))
    head = {"out": {"kernel": jnp.zeros((4, 5)), "bias": jnp.arange(5.0)}}
    return net, variables._replace(params={**variables.params, "head": head})


def flat(image, rng):
    return image.reshape(-1).astype(np.float32)


def test_a_folder_with_two_of_five_classes_is_judged_by_their_names(tmp_path):
    net, variables = always_eel()
    data = jtl.data.folder(images(tmp_path, "cat", "eel"), batch_size=2, transform=flat, shuffle=False)
    assert data.classes == ("cat", "eel")
    assert jtl.evaluate(jtl.evaluation(net), variables, data)["accuracy"] == 0.5
    np.testing.assert_array_equal(jtl.collect(jtl.evaluation(net), variables, data)["y"], [2, 4])
    given = jtl.data.folder(tmp_path, batch_size=2, transform=flat, shuffle=False, classes=NAMES)
    assert jtl.evaluate(jtl.evaluation(net), variables, given)["accuracy"] == 0.5


def test_a_class_that_the_network_lacks_is_told(tmp_path):
    net, variables = always_eel()
    data = jtl.data.folder(images(tmp_path, "cat", "emu"), batch_size=2, transform=flat)
    with pytest.raises(ValueError, match=r"the data to evaluate on has the class 'emu', which the network lacks"):
        jtl.evaluate(jtl.evaluation(net), variables, data)


def test_labels_to_ignore_and_data_without_names_stay():
    data = jtl.data.arrays(np.zeros((3, 2)), np.array([1, -100, 0]), batch_size=3, classes=("eel", "cat"), ignore=-100,
                           shuffle=False)  # fmt: skip
    np.testing.assert_array_equal(matched(data, NAMES, "data")[0]["y"], [2, -100, 4])
    plain = jtl.data.arrays(np.zeros((3, 2)), np.array([1, 2, 0]), batch_size=3)
    assert matched(plain, NAMES, "data") is plain
    assert matched(data, None, "data") is data


@pytest.mark.parametrize("names", [None, tuple("vwxyz")])
def test_fewer_or_more_classes_than_outputs_without_their_names_are_told(names):
    """The accuracy was 0 in silence: folder 0 of two is not output 0 of five."""
    net, variables = always_eel()
    net, x = net._replace(classes=names), np.zeros((2, 48), np.float32)
    run = jtl.train.evaluator(jtl.evaluation(net))

    def judged(y, classes):
        data = jtl.data.arrays(x, np.array(y), batch_size=2, shuffle=False, classes=classes)
        return run(variables, data)["accuracy"]

    with pytest.warns(UserWarning, match=r"2 classes, \['cat', 'eel'\].* 5 outputs: label 0, 'cat'.*classes=.* all 5"):
        assert judged([0, 1], ("cat", "eel")) == 0
    with pytest.raises(
        ValueError, match=r"have 6 classes.* 5 outputs: labels from 5 on, such as that of 'emu'.*classes="
    ):
        judged([0, 5], (*NAMES, "emu"))
    assert judged([0, 4], NAMES) == 0.5
    assert judged([0, 3], 4) == 0  # named by their labels
    with pytest.raises(ValueError, match=r"6 classes.* 5 outputs"):
        jtl.collect(jtl.evaluation(net), variables, jtl.data.arrays(x, np.array([0, 1]), batch_size=2, classes=6))


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_class_names_are_the_same_on_every_system(tmp_path, form):
    """`école` is before `zèbre` in one spelling and behind `ezz` in the other."""
    names = ["zèbre", "école", "ezz"]
    root = images(tmp_path, *(unicodedata.normalize(form, name) for name in names))
    found, files, labels = scan(root)
    assert found == ("ezz", "zèbre", "école")
    assert [unicodedata.normalize("NFC", file.parent.name) for file in files] == list(found)
    assert labels.tolist() == [0, 1, 2]
    assert scan(root, classes=[unicodedata.normalize("NFD", name) for name in names])[0] == ("zèbre", "école", "ezz")


def test_labels_that_cannot_be_matched_by_name_are_refused():
    """Targets of a regression are no labels, and a pair of domains has its labels further within."""
    numbers = jtl.data.arrays(np.zeros((2, 3)), np.ones(2, np.float32), batch_size=2, classes=("eel", "cat"))
    plain = jtl.data.arrays(np.zeros((2, 3)), np.array([0, 1]), batch_size=2, classes=("eel", "cat"))
    for data in (numbers, jtl.data.pair(plain, plain)):
        with pytest.raises(ValueError, match=r"\['eel', 'cat'\] are not in the network's order .*only integer labels"):
            matched(data, NAMES, "data")[0]


@pytest.mark.parametrize("kind", [np.int32, np.float32])
def test_labels_with_a_column_for_each_class_change_their_columns(kind):
    """Several labels a row are 0 and 1, of which the values were exchanged; a column to ignore goes along."""
    y = np.array([[1, 0, 0], [1, 0, 1], [0, -1, 0]], kind)
    theirs = ("cat", "ant", "bee")
    data = jtl.data.arrays(np.zeros((3, 2)), y, batch_size=3, shuffle=False, classes=theirs, ignore=-1)
    for ours in (("ant", "bee", "cat"), NAMES):
        lacks = np.full(3, -1 if kind == np.int32 else 0, kind)  # not known, or of no weight
        wanted = np.stack([y[:, theirs.index(name)] if name in theirs else lacks for name in ours], 1)
        np.testing.assert_array_equal(matched(data, ours, "data")[0]["y"], wanted)
    tags = jtl.data.arrays(np.zeros((1, 2)), np.array([[1, 0, 2]]), batch_size=1, shuffle=False, classes=theirs)
    np.testing.assert_array_equal(matched(tags, ("ant", "bee", "cat"), "data")[0]["y"], [[0, 2, 1]])


def test_tags_as_wide_as_the_classes_keep_the_kind_of_the_first_batch():
    theirs, ours, x = ("cat", "ant", "bee"), ("ant", "bee", "cat"), np.zeros((2, 2))
    tags = jtl.data.arrays(x, np.array([[1, 0, 2], [1, 0, 1]]), batch_size=1, shuffle=False, classes=theirs)
    np.testing.assert_array_equal(matched(tags, ours, "data")[1]["y"], [[0, 2, 0]])  # values, as those before
    mixed = jtl.data.arrays(x, np.array([[1, 0, 1], [1, 0, 2]]), batch_size=1, shuffle=False, classes=theirs)
    with pytest.raises(ValueError, match="batch 1 has the label 2, and the first batch 0 and 1 in 3 columns"):
        matched(mixed, ours, "data")[1]


def decomposed(names):
    return tuple(unicodedata.normalize("NFD", name) for name in names)


def test_a_network_whose_names_are_spelled_in_other_characters_is_matched():
    """Names in the config of weights are as their author's system spells them, and those of data are composed."""
    data = jtl.data.arrays(np.zeros((2, 2)), np.array([0, 1]), batch_size=2, shuffle=False,
                           classes=decomposed(("école", "zèbre")))  # fmt: skip
    assert data.classes == ("école", "zèbre")
    np.testing.assert_array_equal(matched(data, decomposed(("zèbre", "école")), "data")[0]["y"], [1, 0])
    with pytest.raises(ValueError, match="class 'école' is there 2 times"):
        jtl.data.arrays(np.zeros((2, 2)), np.array([0, 1]), batch_size=2, classes=("école", *decomposed(["école"])))


def test_a_class_in_two_folders_is_refused(tmp_path):
    """Linux has room for both spellings of a name side by side."""
    root = images(tmp_path, "école", *decomposed(["école"]), "ant")
    if len(list(root.iterdir())) < 3:
        pytest.skip("this file system has one folder for both spellings")
    with pytest.raises(ValueError, match=r"holds the class 'école' in two folders.*'e\\u0301cole'.*move the images"):
        scan(root)


@pytest.mark.parametrize("wrapped", [lambda o: o, lambda o: jtl.augmented(o, lambda key, x: x)])
def test_training_on_labels_of_another_order_is_refused(tmp_path, wrapped):
    """What is trained on them would be saved, evaluated and predicted under the network's own names."""
    net, variables = always_eel()
    step = jtl.make_step(wrapped(jtl.finetune(net)), optax.sgd(0.1))
    state = step.init(variables, jax.random.key(0))
    one, root = jtl.mesh(devices=jax.devices()[:1]), images(tmp_path, "cat", "eel")
    data = jtl.data.folder(root, batch_size=2, transform=flat)
    with pytest.raises(ValueError, match=r"label 0 is 'cat' in the training data and 'ant' in the network.*classes="):
        jtl.fit(step, state, data, steps=1, mesh=one, progress=False)
    given = jtl.data.folder(root, batch_size=2, transform=flat, classes=NAMES)
    assert int(jtl.fit(step, state, given, steps=1, mesh=one, progress=False).state.step) == 1


def test_turns_and_phases_know_the_classes():
    net, _ = always_eel()
    pair = jtl.alternating(net, jtl.heads.linear(1))
    masks = [jtl.select("critic/.*"), jtl.select("backbone/.*", "head/.*")]
    assert jtl.make_step(pair, [optax.sgd(0.1)] * 2, trainable=masks).classes == (NAMES,)
    phases = [jtl.Phase(0, jtl.Turn(jtl.finetune(net), by=(0,))), jtl.Phase(2, jtl.Turn(jtl.finetune(net), by=(0,)))]
    assert jtl.make_step(phases, [optax.sgd(0.1)]).classes == (NAMES,)
    assert all(o.classes == NAMES for o in jtl.alignments.mcd(net, jtl.heads.linear(5)))
