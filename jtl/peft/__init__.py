"""Parameter-efficient fine-tuning: adapters of a frozen network, which are attached, merged, saved and loaded."""

from jtl.peft.attach import Adapter as Adapter
from jtl.peft.attach import attach as attach
from jtl.peft.attach import merge as merge
from jtl.peft.attach import summary as summary
from jtl.peft.attach import unmerge as unmerge
from jtl.peft.bank import Bank as Bank
from jtl.peft.bank import Routed as Routed
from jtl.peft.bank import bank as bank
from jtl.peft.bitfit import bitfit as bitfit
from jtl.peft.bottleneck import bottleneck as bottleneck
from jtl.peft.files import Loaded as Loaded
from jtl.peft.files import load as load
from jtl.peft.files import save as save
from jtl.peft.ia3 import ia3 as ia3
from jtl.peft.lora import lora as lora
from jtl.peft.lora import lora_plus as lora_plus
from jtl.peft.oft import oft as oft
from jtl.peft.prefix_tuning import prefix_tuning as prefix_tuning
from jtl.peft.prompt_tuning import prompt_tuning as prompt_tuning
from jtl.peft.quantise import quantise as quantise
from jtl.peft.quantise import restored as restored
from jtl.peft.ssf import ssf as ssf
from jtl.peft.vera import Projections as Projections
from jtl.peft.vera import projections as projections
from jtl.peft.vera import vera as vera
from jtl.peft.vpt import vpt as vpt
