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
