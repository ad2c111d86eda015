"""Supervised training: fine-tuning, and heads on a frozen backbone; `jtl.finetuning` is this package."""

from jtl.methods.finetune.bi_tuning import bi_tuning as bi_tuning
from jtl.methods.finetune.bss import bss as bss
from jtl.methods.finetune.cache import Cache as Cache
from jtl.methods.finetune.co_tuning import calibrated_temperature as calibrated_temperature
from jtl.methods.finetune.co_tuning import category_relationship as category_relationship
from jtl.methods.finetune.co_tuning import co_tuning as co_tuning
from jtl.methods.finetune.contrastive import in_batch_negatives as in_batch_negatives
from jtl.methods.finetune.contrastive import supervised_contrastive as supervised_contrastive
from jtl.methods.finetune.delta import channel_attention as channel_attention
from jtl.methods.finetune.delta import delta as delta
from jtl.methods.finetune.distillation import distillation as distillation
from jtl.methods.finetune.feature_distillation import feature_distillation as feature_distillation
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
from jtl.methods.finetune.sentence_pairs import class_pairs as class_pairs
from jtl.methods.finetune.sentence_pairs import sentence_pairs as sentence_pairs
from jtl.methods.finetune.sentence_pairs import similar_pairs as similar_pairs
from jtl.methods.finetune.stoch_norm import stoch_norm as stoch_norm
