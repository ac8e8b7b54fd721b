"""Timings and memory beside the peers; everything is a ratio within one run."""
