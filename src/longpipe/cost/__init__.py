"""Seconds and bytes of every op: uniform as in the papers, from FLOPs, or as measured."""

from longpipe.cost.uniform import UniformCosts as UniformCosts
