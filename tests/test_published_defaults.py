"""Defaults that are numbers of a paper or of its authors' code."""

import inspect

import pytest

import jtl
from jtl import alignments, finetuning, losses, metrics, optim, peft, source_free, test_time
from jtl.selection import validators

PUBLISHED = [
    (alignments.advent, {"weight": 0.001}),
    (alignments.afn, {"weight": 0.05, "growth": 1.0}),
    (alignments.atdoc_nc, {"weight": 0.1, "momentum": 0.1}),
    (alignments.bsp, {"weight": 1e-4, "k": 1}),
    (alignments.dacs, {"momentum": 0.99, "threshold": 0.968}),
    (alignments.daregram, {"angle": 0.05, "scale": 0.001, "threshold": 0.9}),
    (alignments.fixmatch, {"threshold": 0.95}),
    (alignments.flexmatch, {"threshold": 0.95}),
    (alignments.gvb, {"bridge": 1.0, "critic_bridge": 1.0}),
    (alignments.jmmd, {"sigma": 0.92}),
    (alignments.mcc, {"temperature": 2.5}),
    (alignments.mdd, {"gamma": 4.0}),
    (alignments.mic, {"ratio": 0.7, "momentum": 0.999, "threshold": 0.968}),
    (alignments.mme, {"weight": 0.1}),
    (alignments.minent, {"weight": 0.001}),
    (alignments.rsc, {"feature_share": 1 / 3, "batch_share": 1 / 3}),
    (alignments.rsd, {"weight": 1e-3, "mismatch": 0.01}),
    (alignments.sagnet, {"weight": 0.1}),
    (alignments.sdat, {"radius": 0.05}),
    (alignments.spa, {"weight": 1.0, "width": 1.5}),
    (finetuning.bi_tuning, {"width": 128, "temperature": 0.07}),
    (finetuning.bi_tuning_queue, {"width": 128, "size": 40, "momentum": 0.999, "temperature": 0.07}),
    (finetuning.bss, {"weight": 1e-3, "k": 1}),
    (finetuning.channel_attention, {"temperature": 5.0}),
    (finetuning.co_tuning, {"weight": 2.3, "temperature": 1.0}),
    (finetuning.delta, {"weight": 0.01}),
    (finetuning.stoch_norm, {"p": 0.5}),
    (finetuning.supervised_contrastive, {"temperature": 0.07}),
    (jtl.learners.calibrated, {"power": 0.5, "nearest": 2, "dispersion": 0.21, "samples": 750, "penalty": 1.0}),
    (jtl.learners.feat, {"temperature": 64.0, "dropout": 0.5, "attention_dropout": 0.1}),
    (jtl.learners.information_maximised, {"temperature": 15.0, "supervised": 0.1, "conditional": 0.1, "steps": 150}),
    (jtl.learners.laplacian_shot, {"strength": 1.0, "neighbours": 2, "steps": 20}),
    (jtl.weight_schedule, {"gain": 10.0}),
    (losses.focal, {"gamma": 2.0}),
    (losses.logit_adjusted, {"tau": 1.0}),
    (metrics.calibration_error, {"bins": 15}),
    (optim.annealed, {"gain": 10.0, "power": 0.75}),
    (optim.bit_hyper_rule, {"learning_rate": 0.003}),
    (peft.budgeted, {"beta1": 0.85, "beta2": 0.85}),
    (peft.orthogonality, {"weight": 0.5}),
    (source_free.nrc, {"neighbours": 3, "expanded": 3, "affinity": 0.1}),
    (source_free.shot, {"weight": 0.3}),
    (jtl.train.swad, {"optimum": 3, "overfit": 6, "tolerance": 1.3}),
    (test_time.cotta, {"views": 32, "momentum": 0.999}),
    (test_time.eata, {"weight": 2000.0, "margin": 0.4}),
    (test_time.ensemble, {"momentum": 0.99}),
    (test_time.roid, {"temperature": 1 / 3, "momentum": 0.9}),
    (test_time.sar, {"radius": 0.05, "margin": 0.4}),
    (test_time.soft_likelihood_ratio, {"clip": 0.99}),
    (validators.mixval, {"share": 0.55}),
    (validators.soft_neighbourhood_density, {"temperature": 0.05}),
]


@pytest.mark.parametrize(("call", "numbers"), PUBLISHED, ids=lambda value: getattr(value, "__name__", ""))
def test_a_default_is_the_published_number(call, numbers):
    given = inspect.signature(call).parameters
    assert {name: given[name].default for name in numbers} == numbers
