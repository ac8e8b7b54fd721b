"""Pictures as SVG: vectors, for papers."""

from html import escape

from longpipe.errors import DataError
from longpipe.view.drawing import FONT, Area, Box, Drawing, Shape

_MOST = 60_000  # shapes; a file of about 8 MB, which programs open slowly already


def to_svg(drawing: Drawing) -> str:
    """The text of an SVG file, fonts left to whoever shows it.

    Raises DataError where it has so many shapes that nothing would open it.
    """
    if len(drawing.shapes) > _MOST:
        raise DataError(
            f"an SVG of {len(drawing.shapes):,} shapes opens nowhere (at most {_MOST:,}): "
            "write .html or .png, or fewer micro-batches"
        )
    width, height = f"{drawing.width:g}", f"{drawing.height:g}"
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
        f'height="{height}" font-family="Helvetica, Arial, sans-serif" font-size="{FONT}">'
    )
    ground = f'<rect width="{width}" height="{height}" fill="#ffffff"/>'
    return "\n".join([head, ground, *map(_shape, drawing.shapes), "</svg>"]) + "\n"


def _shape(shape: Shape) -> str:
    if isinstance(shape, Box):
        paint = 'fill="none" stroke' if shape.hollow else "fill"
        return (
            f'<rect x="{shape.x:.2f}" y="{shape.y:.2f}" width="{max(shape.width, 0):.2f}" '
            f'height="{shape.height:.2f}" {paint}="{shape.colour}"/>'
        )
    if isinstance(shape, Area):
        points = " ".join(f"{x:.2f},{y:.2f}" for x, y in shape.points)
        return f'<polygon points="{points}" fill="{shape.colour}"/>'
    bold = ' font-weight="bold"' if shape.bold else ""
    return (
        f'<text x="{shape.x:.2f}" y="{shape.y + FONT * 0.35:.2f}" fill="{shape.colour}" '
        f'text-anchor="{shape.anchor}"{bold}>{escape(shape.text)}</text>'
    )
