"""A misspelt view is named, with the views that there are: a bare `KeyError: 'target'` named neither."""

import jax
import pytest
from nets import batch, dense, top

from jtl import alignments, heads
from jtl.methods.adapt.adapt import adapt
from jtl.methods.finetune.finetune import finetune
from jtl.networks import network
from jtl.tasks.together import together

KEY = jax.random.key(0)
NET = network(backbone=dense(8), head=top(3))
GOOD = {"source": batch(n=8, seed=0), "target": {"x": batch(n=8, seed=1)["x"]}}
BAD = {"source": GOOD["source"], "traget": GOOD["target"]}
CRITIC = heads.mlp(1, (4,))
TERMS = {
    "dann": alignments.dann(CRITIC),
    "cdan": alignments.cdan(CRITIC),
    "mdd": alignments.mdd(top(3)),
    "iwan": alignments.iwan(CRITIC, CRITIC),
    "wdgrl": alignments.wdgrl(CRITIC),
    "osbp": alignments.osbp(NET),
    "mme": alignments.mme(NET),
    "nwd": alignments.nwd(NET),
    "mcc": alignments.mcc(),
    "mmd": alignments.mmd(),
    "entropy": alignments.entropy(),
    "vat": alignments.vat(NET),
}
WHOLE = {
    "alternating, critic": alignments.alternating(NET, CRITIC)[0],
    "alternating, network": alignments.alternating(NET, CRITIC)[1],
    "mcd": alignments.mcd(NET, top(3))[0],
    "pada": alignments.pada(NET),
    **{name: adapt(NET, alignments=[term]) for name, term in TERMS.items()},
}
DOMAINS = {
    "group_dro": alignments.group_dro(NET, ("source", "target")),
    "vrex": adapt(NET, labelled=("source",), alignments=[alignments.vrex(("source", "target"))]),
    "irm": adapt(NET, labelled=("source",), alignments=[alignments.irm(("source", "target"))]),
    "fishr": adapt(NET, labelled=("source",), alignments=[alignments.fishr(NET, ("source", "target"))]),
    "and_mask": alignments.and_mask(NET, ("source", "target")),
    "cdann": adapt(NET, alignments=[alignments.cdann(("source", "target"), top(2))]),
    "eqrm": alignments.eqrm(NET, ("source", "target")),
    "mldg": alignments.mldg(NET, ("source", "target"), inner_lr=0.1),
    "rsc": alignments.rsc(NET, ("source", "target")),
    "sagnet": alignments.sagnet(NET, top(3), ("source", "target")),
}


def traced(objective, variables, rows):
    return jax.eval_shape(lambda v: objective(v.params, v.stats, rows, KEY, 0)[0], variables)


@pytest.mark.parametrize("name", WHOLE)
def test_an_alignment_names_the_view_that_it_lacks(name):
    objective = WHOLE[name]
    variables = jax.eval_shape(lambda: objective.init(KEY, GOOD))
    traced(objective, variables, GOOD)
    with pytest.raises(ValueError, match=r"needs? (a|the) views? .*'target'.*'source', 'traget'"):
        traced(objective, variables, BAD)


@pytest.mark.parametrize("name", DOMAINS)
def test_a_method_over_domains_names_the_one_that_it_lacks(name):
    objective, labelled = DOMAINS[name], {d: batch(n=8) for d in ("source", "target")}
    variables = jax.eval_shape(lambda: objective.init(KEY, labelled))
    traced(objective, variables, labelled)
    with pytest.raises(ValueError, match=r"'target'.*\['source', 'traget'\]"):
        traced(objective, variables, {"source": labelled["source"], "traget": labelled["target"]})


def test_what_starts_a_run_names_it_too():
    """`init` comes first, and needs no alignment to fail."""
    misspelt = {"sorce": GOOD["source"], "target": GOOD["target"]}
    for objective in (adapt(NET), adapt(NET, labelled=("source", "target")), *WHOLE.values(), DOMAINS["mldg"]):
        with pytest.raises(ValueError, match=r"needs a view 'source'; the batch has \['sorce', 'target'\]"):
            objective.init(KEY, misspelt)
    with pytest.raises(ValueError, match=r"labelled=\('art',\) needs a view 'art'; the batch has \['source'"):
        adapt(NET, labelled=("art",)).init(KEY, GOOD)


def test_a_task_that_the_batch_lacks_is_named():
    objective = together(tags=finetune(NET), digits=finetune(NET))
    rows = {"tags": batch(n=8), "digits": batch(n=8)}
    variables = jax.eval_shape(lambda: objective.init(KEY, rows))
    misspelt = {"tags": rows["tags"], "digit": rows["digits"]}
    for call in (lambda: objective.init(KEY, misspelt), lambda: traced(objective, variables, misspelt)):
        with pytest.raises(ValueError, match=r"no part of the task 'digits', only \['digit', 'tags'\]"):
            call()
