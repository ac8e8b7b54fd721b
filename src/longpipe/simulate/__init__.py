"""From a schedule and costs to a predicted Timeline, and the numbers of any Timeline."""

from longpipe.simulate.engine import simulate as simulate
from longpipe.simulate.engine import title as title
from longpipe.simulate.metrics import Idle as Idle
from longpipe.simulate.metrics import Metrics as Metrics
from longpipe.simulate.metrics import measure as measure
from longpipe.simulate.metrics import small_fraction as small_fraction
