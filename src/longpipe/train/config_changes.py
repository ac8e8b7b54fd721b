"""What differs between the config that wrote a checkpoint and the one that goes on from it."""

from collections.abc import Iterator, Mapping
from typing import Any

_HARMLESS = frozenset(
    {
        "data.cache_dir",
        "pipeline.group",
        "optim.post_validation",
        "optim.post_validation_after",
        *(f"tune.{name}" for name in ("every", "groups", "memory_bytes", "hysteresis")),
        *(
            f"train.{name}"
            for name in (
                "steps", "out_dir", "resume", "fall_back", "log_every", "checkpoint_every", "keep",
                "export", "hang_timeout_s", "send_delay_s", "device_tflops", "tensorboard",
            )
        ),
    }
)  # fmt: skip


def changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> tuple[str, ...]:
    """A text such as `optim.lr 0.01 -> 0.02` for each setting that may change the losses.

    Both as `Config.plain` gives them; what only one of them has is unset in the other. How long
    the run is, where it writes and how often are no changes.

    >>> changes({"optim": {"lr": 0.01}}, {"optim": {"lr": 0.02, "decay_steps": 9}})
    ('optim.lr 0.01 -> 0.02', 'optim.decay_steps unset -> 9')
    """
    old, new = dict(_settings(before)), dict(_settings(after))
    return tuple(
        f"{name} {old.get(name, 'unset')} -> {new.get(name, 'unset')}"
        for name in (old | new)
        if name not in _HARMLESS and old.get(name) != new.get(name)
    )


def _settings(plain: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for section, settings in plain.items():
        for name, value in settings.items():
            yield f"{section}.{name}", value
