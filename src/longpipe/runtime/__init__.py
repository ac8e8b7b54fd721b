"""Executes a Program on real devices.

Read in this order: `stage`, `executor`, `sharded`, `transport`, `p2p`, `watchdog`, `launch`.
"""

from longpipe.runtime.boundary import Boundary as Boundary
from longpipe.runtime.executor import Executor as Executor
from longpipe.runtime.executor import StepResult as StepResult
from longpipe.runtime.progress import Progress as Progress
from longpipe.runtime.sharded import ShardedModule as ShardedModule
from longpipe.runtime.sharded import ShardedStage as ShardedStage
from longpipe.runtime.stage import StageModule as StageModule
from longpipe.runtime.stage import WeightQueue as WeightQueue
from longpipe.runtime.transport import Direction as Direction
from longpipe.runtime.transport import Transport as Transport
