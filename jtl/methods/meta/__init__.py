"""Meta-learning: inner loops, update rules, learners, and the objective over tasks; `jtl.learners` is this package."""

from jtl.methods.meta.chained import chained as chained
from jtl.methods.meta.inner_loop import Adapt as Adapt
from jtl.methods.meta.inner_loop import adapt_to as adapt_to
from jtl.methods.meta.learned_optimizer import learned_optimizer as learned_optimizer
from jtl.methods.meta.maml import maml as maml
from jtl.methods.meta.maml import meta as meta
from jtl.methods.meta.memory import centred as centred
from jtl.methods.meta.memory import matching as matching
from jtl.methods.meta.memory import memorise as memorise
from jtl.methods.meta.memory import nearest_mean as nearest_mean
from jtl.methods.meta.memory import relation as relation
from jtl.methods.meta.memory import relation_error as relation_error
from jtl.methods.meta.meta_curvature import meta_curvature as meta_curvature
from jtl.methods.meta.multi_step import annealed_weights as annealed_weights
from jtl.methods.meta.multi_step import multi_step as multi_step
from jtl.methods.meta.new_head import new_head as new_head
from jtl.methods.meta.per_step_rates import per_step_rates as per_step_rates
from jtl.methods.meta.prototypes import prototypes as prototypes
from jtl.methods.meta.reptile import reptile as reptile
from jtl.methods.meta.ridge import ridge as ridge
from jtl.methods.meta.self_supported import self_supported as self_supported
from jtl.methods.meta.update_rules import UpdateRule as UpdateRule
from jtl.methods.meta.update_rules import fixed_rate as fixed_rate
from jtl.methods.meta.update_rules import from_optax as from_optax
from jtl.methods.meta.update_rules import learned_rate as learned_rate
