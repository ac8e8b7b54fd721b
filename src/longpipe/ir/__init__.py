"""The schedule language: pure data, standard library only.

Read in this order: `op`, `deps`, `schedule`, `walk`.
"""

from longpipe.ir.costs import Costs as Costs
from longpipe.ir.costs import EqualCosts as EqualCosts
from longpipe.ir.costs import Memory as Memory
from longpipe.ir.costs import row_memory as row_memory
from longpipe.ir.deps import crossing as crossing
from longpipe.ir.deps import matching as matching
from longpipe.ir.deps import message_of as message_of
from longpipe.ir.deps import needs as needs
from longpipe.ir.deps import provides as provides
from longpipe.ir.kind import COMPUTE as COMPUTE
from longpipe.ir.kind import INPUT_GRAD as INPUT_GRAD
from longpipe.ir.kind import MESSAGES as MESSAGES
from longpipe.ir.kind import RECEIVES as RECEIVES
from longpipe.ir.kind import SENDS as SENDS
from longpipe.ir.kind import SHARDING as SHARDING
from longpipe.ir.kind import WEIGHT_GRAD as WEIGHT_GRAD
from longpipe.ir.kind import Kind as Kind
from longpipe.ir.op import Op as Op
from longpipe.ir.placement import Placement as Placement
from longpipe.ir.placement import bidirectional as bidirectional
from longpipe.ir.placement import loop as loop
from longpipe.ir.placement import v as v
from longpipe.ir.problem import Problem as Problem
from longpipe.ir.schedule import Pairs as Pairs
from longpipe.ir.schedule import Program as Program
from longpipe.ir.schedule import Rows as Rows
from longpipe.ir.schedule import Schedule as Schedule
from longpipe.ir.segment import Segment as Segment
from longpipe.ir.segment import segments_from_lengths as segments_from_lengths
from longpipe.ir.text import from_text as from_text
from longpipe.ir.text import read as read
from longpipe.ir.text import to_text as to_text
from longpipe.ir.timeline import Event as Event
from longpipe.ir.timeline import Timeline as Timeline
from longpipe.ir.timing import Lane as Lane
from longpipe.ir.timing import clock as clock
from longpipe.ir.timing import cost_ticks as cost_ticks
from longpipe.ir.timing import makespan_ticks as makespan_ticks
from longpipe.ir.torch_csv import from_torch_csv as from_torch_csv
from longpipe.ir.torch_csv import to_torch_csv as to_torch_csv
from longpipe.ir.walk import walk as walk
