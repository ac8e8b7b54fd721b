"""A picture of activation memory over time, one curve for each rank of a simulated step."""

from longpipe import Timeline

_WIDTH, _HEIGHT, _LEFT, _TOP, _GAP = 640, 56, 58, 22, 10


def memory_curve(timeline: Timeline) -> str:
    """An SVG: time to the right, a strip for each rank; what it holds, as a share of the most."""
    most = max(event.peak or 0.0 for row in timeline.rows for event in row)
    across = _WIDTH / timeline.makespan_s
    height = _TOP + timeline.ranks * (_HEIGHT + _GAP) + 16
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_LEFT + _WIDTH + 10} {height}" '
        'font-size="11" font-family="sans-serif" fill="#555">',
        f'<rect width="100%" height="{height}" fill="#fff"/>',
        f'<text x="{_LEFT}" y="14">{timeline.name}</text>',
    ]
    for rank, row in enumerate(timeline.rows):
        top = _TOP + rank * (_HEIGHT + _GAP)
        floor = top + _HEIGHT
        up = _HEIGHT / most if most else 0.0
        peak = max((event.peak or 0.0 for event in row), default=0.0)
        path = [f"M{_LEFT} {floor}"]
        for event in row:
            x, end = (_LEFT + time * across for time in (event.start_s, event.end_s))
            path.append(f"H{x:.4g}V{floor - (event.peak or 0.0) * up:.4g}H{end:.4g}")
            path.append(f"V{floor - (event.memory or 0.0) * up:.4g}")
        path.append(f"H{_LEFT + _WIDTH}V{floor}Z")
        parts += [
            f'<path d="{"".join(path)}" fill="#90caf9" stroke="#1565c0" stroke-width="0.7"/>',
            f'<path d="M{_LEFT} {floor}H{_LEFT + _WIDTH}" stroke="#888" stroke-width="0.7"/>',
            f'<text x="4" y="{floor - 14}">rank {rank}</text>',
            f'<text x="4" y="{floor - 1}">peak {peak:.4g}</text>',
        ]
    parts.append(
        f'<text x="{_LEFT}" y="{height - 4}">time, 0 to {timeline.makespan_s:.6g}</text>\n</svg>\n'
    )
    return "\n".join(parts)
