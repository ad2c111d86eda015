"""Training: the state, the one step, its devices, the loop and its checkpoints."""

from jtl.train.average import Average, average_add, average_finish, average_start, refreshed_statistics
from jtl.train.checkpoint.checkpoints import Checkpoints
from jtl.train.collect import collect, predict
from jtl.train.evaluate import Validation, evaluate, evaluator
from jtl.train.loop import Fitted, Moment, NonFiniteLoss, fit
from jtl.train.parallel.pmap import pmap_step, replicated, split_batch, unreplicated
from jtl.train.parallel.sharding import fsdp, jit_step, mesh, put_batch, replicate, variables_sharding
from jtl.train.rate_finder import Rates, lr_find
from jtl.train.records import JsonLines, TensorBoard, read_json_lines
from jtl.train.refresh import Refresh
from jtl.train.state import State, averaged, variables
from jtl.train.step import Step, make_step
from jtl.train.surgical import relative_gradients
from jtl.train.swad import Chosen, Swad, swad
from jtl.train.turns import Phase, Turn

__all__ = [
    "Average",
    "Checkpoints",
    "Chosen",
    "Fitted",
    "JsonLines",
    "Moment",
    "NonFiniteLoss",
    "Phase",
    "Rates",
    "Refresh",
    "State",
    "Step",
    "Swad",
    "TensorBoard",
    "Turn",
    "Validation",
    "average_add",
    "average_finish",
    "average_start",
    "averaged",
    "collect",
    "evaluate",
    "evaluator",
    "fit",
    "fsdp",
    "jit_step",
    "lr_find",
    "make_step",
    "mesh",
    "pmap_step",
    "predict",
    "put_batch",
    "read_json_lines",
    "refreshed_statistics",
    "relative_gradients",
    "replicate",
    "replicated",
    "split_batch",
    "swad",
    "unreplicated",
    "variables",
    "variables_sharding",
]
