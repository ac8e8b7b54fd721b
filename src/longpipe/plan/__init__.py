"""Choosing the layout: layers into stages, sequences into segments."""

from longpipe.plan.exact import Exact as Exact
from longpipe.plan.exact import solve_exact as solve_exact
from longpipe.plan.grouping import Candidate as Candidate
from longpipe.plan.grouping import RankMemory as RankMemory
from longpipe.plan.grouping import candidates as candidates
from longpipe.plan.grouping import feasible as feasible
from longpipe.plan.grouping import in_flight as in_flight
from longpipe.plan.grouping import memory_of as memory_of
from longpipe.plan.order import check_same as check_same
from longpipe.plan.order import named as named
from longpipe.plan.order import read_order as read_order
from longpipe.plan.partition import balanced_layers as balanced_layers
from longpipe.plan.partition import checked_layers as checked_layers
from longpipe.plan.partition import layer_ranges as layer_ranges
from longpipe.plan.segments import checked_cuts as checked_cuts
from longpipe.plan.segments import equal_cost_cuts as equal_cost_cuts
from longpipe.plan.segments import even_cuts as even_cuts
