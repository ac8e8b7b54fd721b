"""Train large language models on long sequences over a pipeline of devices, exactly.

What can be known before a run, without torch:

>>> from longpipe import Problem, UniformCosts, build, measure, picture, simulate, validate
>>> problem = Problem(ranks=2, microbatches=1, segments=2)
>>> schedule = build("seq1f1b", problem)
>>> validate(schedule)
>>> timeline = simulate(schedule, UniformCosts(problem))
>>> measure(timeline).global_bubble_s
1.5
>>> print(picture(timeline))
# ir 1 | seq1f1b ranks=2 microbatches=1 segments=2 | makespan 4.5
r0 0F0   0F0.1 .     .     .     0B0.1 -     0B0   -
r1 .     1F0   1F0.1 1B0.1 -     1B0   -     .     .

The names below are the public ones of the half that needs no torch; `longpipe.ir` and the other
packages hold more. `longpipe.simulate` and `longpipe.validate` are the functions; what else their
packages hold comes by `from longpipe.simulate import ...`.
"""

from longpipe.cost import UniformCosts as UniformCosts
from longpipe.errors import LongpipeError as LongpipeError
from longpipe.errors import ProblemError as ProblemError
from longpipe.errors import ScheduleError as ScheduleError
from longpipe.ir import Costs as Costs
from longpipe.ir import Event as Event
from longpipe.ir import Kind as Kind
from longpipe.ir import Op as Op
from longpipe.ir import Placement as Placement
from longpipe.ir import Problem as Problem
from longpipe.ir import Program as Program
from longpipe.ir import Schedule as Schedule
from longpipe.ir import Timeline as Timeline
from longpipe.ir import from_text as from_text
from longpipe.ir import from_torch_csv as from_torch_csv
from longpipe.ir import to_text as to_text
from longpipe.ir import to_torch_csv as to_torch_csv
from longpipe.passes import add_messages as add_messages
from longpipe.schedules import build as build
from longpipe.schedules import entries as entries
from longpipe.simulate import Metrics as Metrics
from longpipe.simulate import measure as measure
from longpipe.simulate import simulate as simulate
from longpipe.validate import validate as validate
from longpipe.view import picture as picture
