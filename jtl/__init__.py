"""jtl: transfer learning for JAX, four families of methods with one objective type and one train step.

    import jtl

    net = jtl.network(backbone=backbone, head=head)
    objective = jtl.finetune(net)                                        # or features, adapt, maml
    step = jtl.make_step(objective, tx, trainable=jtl.select("head/.*"))
    state = step.init(objective.init(key, data[0]), key)                 # or init(key, data[0], given=loaded.variables)
    result = jtl.fit(step, state, data, steps=1000)

Names are imported when first used, so `jtl --help` and a data script do not wait for jax.
"""

from etils import epy

# `as` marks a name as public to type checkers (PEP 484); each name stands here once.
with epy.lazy_api_imports(globals()):
    from jtl import alignments as alignments
    from jtl import backbones as backbones
    from jtl import data as data
    from jtl import finetuning as finetuning
    from jtl import heads as heads
    from jtl import learners as learners
    from jtl import losses as losses
    from jtl import metrics as metrics
    from jtl import nn as nn
    from jtl import ops as ops
    from jtl import optim as optim
    from jtl import peft as peft
    from jtl import preprocess as preprocess
    from jtl import pretrained as pretrained
    from jtl import reads as reads
    from jtl import report as report
    from jtl import rng as rng
    from jtl import selection as selection
    from jtl import source_free as source_free
    from jtl import tasks as tasks
    from jtl import test_time as test_time
    from jtl import train as train
    from jtl import transform as transform
    from jtl import weights as weights
    from jtl.allocator import keep_freed_memory as keep_freed_memory
    from jtl.command.python import adapt_files as adapt_files
    from jtl.command.python import finetune_files as finetune_files
    from jtl.methods.adapt.adapt import adapt as adapt
    from jtl.methods.adapt.dann import alternating as alternating
    from jtl.methods.adapt.dann import dann as dann
    from jtl.methods.adapt.dann import weight_schedule as weight_schedule
    from jtl.methods.augmented import augmented as augmented
    from jtl.methods.augmented_prediction import augmented_predictor as augmented_predictor
    from jtl.methods.finetune.features import extract as extract
    from jtl.methods.finetune.features import features as features
    from jtl.methods.finetune.finetune import evaluation as evaluation
    from jtl.methods.finetune.finetune import finetune as finetune
    from jtl.methods.finetune.finetune import predictor as predictor
    from jtl.methods.meta.inner_loop import Adapt as Adapt
    from jtl.methods.meta.inner_loop import adapt_to as adapt_to
    from jtl.methods.meta.maml import maml as maml
    from jtl.methods.meta.maml import meta as meta
    from jtl.methods.meta.update_rules import UpdateRule as UpdateRule
    from jtl.methods.meta.update_rules import fixed_rate as fixed_rate
    from jtl.methods.meta.update_rules import from_optax as from_optax
    from jtl.methods.meta.update_rules import learned_rate as learned_rate
    from jtl.methods.mixed import mixed as mixed
    from jtl.methods.pcgrad import pcgrad as pcgrad
    from jtl.metrics.accumulate import Mean as Mean
    from jtl.metrics.accumulate import Metric as Metric
    from jtl.metrics.accumulate import Sums as Sums
    from jtl.metrics.accumulate import mean as mean
    from jtl.model import Model as Model
    from jtl.model import Variables as Variables
    from jtl.model import evaluated as evaluated
    from jtl.model import from_linen as from_linen
    from jtl.model import from_nnx as from_nnx
    from jtl.model import preprocessed as preprocessed
    from jtl.networks import Outputs as Outputs
    from jtl.networks import network as network
    from jtl.networks import part as part
    from jtl.objective import Objective as Objective
    from jtl.params import flatten as flatten
    from jtl.params import match as match
    from jtl.params import merge as merge
    from jtl.params import select as select
    from jtl.params import split as split
    from jtl.params import unflatten as unflatten
    from jtl.pretrained.card import Card as Card
    from jtl.pretrained.load import Pretrained as Pretrained
    from jtl.pretrained.load import load as load
    from jtl.pretrained.push import push as push
    from jtl.pretrained.save import save as save
    from jtl.report.parameters import describe as describe
    from jtl.train import Checkpoints as Checkpoints
    from jtl.train import Fitted as Fitted
    from jtl.train import JsonLines as JsonLines
    from jtl.train import Moment as Moment
    from jtl.train import NonFiniteLoss as NonFiniteLoss
    from jtl.train import Phase as Phase
    from jtl.train import Refresh as Refresh
    from jtl.train import State as State
    from jtl.train import Step as Step
    from jtl.train import TensorBoard as TensorBoard
    from jtl.train import Turn as Turn
    from jtl.train import Validation as Validation
    from jtl.train import averaged as averaged
    from jtl.train import collect as collect
    from jtl.train import evaluate as evaluate
    from jtl.train import fit as fit
    from jtl.train import fsdp as fsdp
    from jtl.train import jit_step as jit_step
    from jtl.train import lr_find as lr_find
    from jtl.train import make_step as make_step
    from jtl.train import mesh as mesh
    from jtl.train import pmap_step as pmap_step
    from jtl.train import predict as predict
    from jtl.train import put_batch as put_batch
    from jtl.train import replicate as replicate
    from jtl.train import replicated as replicated
    from jtl.train import split_batch as split_batch
    from jtl.train import unreplicated as unreplicated
    from jtl.train import variables as variables
    from jtl.train import variables_sharding as variables_sharding
    from jtl.train.parallel import distributed as distributed
    from jtl.transform.fused_attention import fused_attention as fused_attention
    from jtl.transform.remat import checkpointed as checkpointed
    from jtl.typing import Aux as Aux

del epy  # no name of jtl
__all__ = sorted(set(globals()["__dir__"]()) - set(globals()))  # pyright: ignore[reportUnsupportedDunderAll]
