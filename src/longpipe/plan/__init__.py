"""Choosing the layout: layers into stages, sequences into segments."""

from longpipe.plan.partition import balanced_layers as balanced_layers
from longpipe.plan.partition import checked_layers as checked_layers
from longpipe.plan.partition import layer_ranges as layer_ranges
from longpipe.plan.segments import checked_cuts as checked_cuts
from longpipe.plan.segments import equal_cost_cuts as equal_cost_cuts
from longpipe.plan.segments import even_cuts as even_cuts
