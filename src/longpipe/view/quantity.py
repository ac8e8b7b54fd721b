"""Numbers for people."""

from longpipe.simulate import small_fraction


def exact(value: float) -> str:
    """All digits of a number that is a simple fraction; six of one that was measured.

    >>> exact(3126.947), exact(0.1 + 0.2), exact(3.4412345678)
    ('3126.947', '0.3', '3.44123')
    """
    neat = small_fraction(value, abs(value)) is not None
    return f"{value:.12g}" if neat else f"{value:.6g}"


def short(value: float) -> str:
    """Four digits, with k, M or G for large numbers.

    >>> short(28.5), short(0.0012345), short(412_500_000)
    ('28.5', '0.001234', '412.5M')
    """
    for suffix, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if abs(value) >= 10 * size:
            return f"{value / size:.4g}{suffix}"
    return f"{value:.4g}"


def percent(part: float, whole: float) -> str:
    """A share.

    >>> percent(1, 8), percent(1, 0)
    ('12.5%', '0.0%')
    """
    return f"{part / whole if whole else 0.0:.1%}"


def time(value: float, seconds: bool) -> str:
    """A time in seconds, or one without a unit.

    >>> time(0.0123456, seconds=True), time(8e-6, seconds=True), time(28.5, seconds=False)
    ('12.35 ms', '8 µs', '28.5')
    """
    if not seconds:
        return short(value)
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if abs(value) >= size:
            return f"{value / size:.4g} {unit}"
    return f"{value / 1e-6:.4g} µs" if value else "0 s"


def size(value: float, in_bytes: bool) -> str:
    """Bytes, or a memory without a unit.

    >>> size(412_500_000, in_bytes=True), size(3.25, in_bytes=False)
    ('412.5 MB', '3.25')
    """
    if not in_bytes:
        return short(value)
    for unit, count in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if abs(value) >= count:
            return f"{value / count:.4g} {unit}"
    return f"{value:.4g} B"
