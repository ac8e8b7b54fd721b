"""Seconds and bytes of every op: uniform as in the papers, from FLOPs, or as measured."""

from longpipe.cost.activations import Activations as Activations
from longpipe.cost.analytic import AnalyticCosts as AnalyticCosts
from longpipe.cost.analytic import Device as Device
from longpipe.cost.analytic import Load as Load
from longpipe.cost.comm import Copies as Copies
from longpipe.cost.comm import Link as Link
from longpipe.cost.flops import DecoderShape as DecoderShape
from longpipe.cost.flops import StageShape as StageShape
from longpipe.cost.flops import causal_pairs as causal_pairs
from longpipe.cost.flops import coefficients as coefficients
from longpipe.cost.flops import op_flops as op_flops
from longpipe.cost.flops import stage_shapes as stage_shapes
from longpipe.cost.flops import training_flops_per_token as training_flops_per_token
from longpipe.cost.measured import Measured as Measured
from longpipe.cost.measured import MeasuredCosts as MeasuredCosts
from longpipe.cost.measured import Slot as Slot
from longpipe.cost.uniform import UniformCosts as UniformCosts
