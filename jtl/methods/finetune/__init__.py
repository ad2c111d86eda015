"""Supervised training: fine-tuning, and heads on a frozen backbone; `jtl.finetuning` is this package."""

from jtl.methods.finetune.bss import bss as bss
from jtl.methods.finetune.cache import Cache as Cache
from jtl.methods.finetune.distillation import distillation as distillation
from jtl.methods.finetune.features import extract as extract
from jtl.methods.finetune.features import features as features
from jtl.methods.finetune.finetune import evaluation as evaluation
from jtl.methods.finetune.finetune import finetune as finetune
from jtl.methods.finetune.finetune import predictor as predictor
from jtl.methods.finetune.l2_sp import l2_sp as l2_sp
from jtl.methods.finetune.on_features import k_means as k_means
from jtl.methods.finetune.on_features import logistic_regression as logistic_regression
from jtl.methods.finetune.on_features import neighbours as neighbours
from jtl.methods.finetune.on_features import ridge as ridge
