"""Every exception that longpipe raises on purpose.

    LongpipeError
    ├── ProblemError     a schedule cannot be built for this Problem
    ├── ScheduleError    a schedule or program breaks a rule: says rank, position, op
    ├── PlanError        a layer partition, cut or plan does not fit the model
    ├── ConfigError      a configuration file, override or model config is wrong
    ├── DataError        a text, token or dataset file is wrong
    ├── CheckpointError  a checkpoint cannot be written or read
    └── RunError         a run stopped: says rank, op and the message waited for

Each message names the culprit and the way out. A failing `assert` is a bug in longpipe.
"""


class LongpipeError(Exception):
    """Base of every error that longpipe raises on purpose."""


class ProblemError(LongpipeError, ValueError):
    """A schedule cannot be built for this Problem; the text says what to change."""


class ScheduleError(LongpipeError, ValueError):
    """A schedule or program breaks a rule; the text names rank, position and ops."""


class PlanError(LongpipeError, ValueError):
    """A layer partition, a segment cut or a plan does not fit the model."""


class ConfigError(LongpipeError, ValueError):
    """A configuration value is unknown, of the wrong type, or contradicts another."""


class DataError(LongpipeError, ValueError):
    """A text, token or dataset file cannot be used as it is."""


class CheckpointError(LongpipeError, RuntimeError):
    """A checkpoint cannot be written, read or trusted."""


class RunError(LongpipeError, RuntimeError):
    """A run stopped; the text names the rank, the op and the message waited for."""
