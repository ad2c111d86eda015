"""Regularisers and losses of fine-tuning: `jtl.methods.finetune` under the name that users import from."""

from jtl.methods.finetune import *
