"""Rewrites of schedules: each takes a value and returns a new one, one file each."""

from longpipe.passes.bound_weights import bound_weights as bound_weights
from longpipe.passes.recompute import recompute as recompute
from longpipe.passes.recompute import stages_named as stages_named
from longpipe.passes.sendrecv import add_messages as add_messages
from longpipe.passes.sharding import add_sharding as add_sharding
from longpipe.passes.sharding import without_sharding as without_sharding
