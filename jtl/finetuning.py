"""Regularisers and losses for fine-tuning: `jtl.methods.finetune` under the name that users import."""

from jtl.methods.finetune import *
