"""Numbers for narrow places."""


def short(value: float) -> str:
    """Four digits, with k, M or G for large numbers.

    >>> short(28.5), short(0.0012345), short(412_500_000)
    ('28.5', '0.001234', '412.5M')
    """
    for suffix, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if abs(value) >= 10 * size:
            return f"{value / size:.4g}{suffix}"
    return f"{value:.4g}"
