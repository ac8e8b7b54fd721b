"""Pictures as PNG. Pillow draws them: it has letters with smooth edges."""

from io import BytesIO

from longpipe.errors import DataError
from longpipe.view.drawing import FONT, Area, Box, Drawing

_SCALE = 2  # pixels for each CSS pixel
_MOST = 16_000  # CSS pixels of height, that is 150 MB of memory


def to_png(drawing: Drawing) -> bytes:
    """The bytes of a PNG file, two pixels for each of the drawing's.

    Raises DataError where Pillow is not installed or the drawing too high.
    """
    try:
        from PIL import Image, ImageDraw, ImageFont
    except ImportError as error:
        raise DataError(
            "PNG needs Pillow: pip install 'longpipe[png]', or write .svg or .html"
        ) from error
    if drawing.height > _MOST:
        raise DataError(f"a PNG {drawing.height:,.0f} pixels high is too high: write .html")
    image = Image.new(
        "RGB", (round(drawing.width * _SCALE), round(drawing.height * _SCALE)), "#fff"
    )
    pen = ImageDraw.Draw(image)
    font = ImageFont.load_default(FONT * _SCALE)
    for shape in drawing.shapes:
        if isinstance(shape, Box):
            x, y, width, height = (value * _SCALE for value in shape[:4])
            corners = (x, y, max(x + width - 1, x), y + height - 1)
            if shape.hollow:
                pen.rectangle(corners, outline=shape.colour, width=_SCALE)
            else:
                pen.rectangle(corners, fill=shape.colour)
        elif isinstance(shape, Area):
            pen.polygon([(x * _SCALE, y * _SCALE) for x, y in shape.points], fill=shape.colour)
        else:
            pen.text(
                (shape.x * _SCALE, shape.y * _SCALE),
                shape.text,
                fill=shape.colour,
                font=font,
                anchor="mm" if shape.anchor == "middle" else "lm",
                stroke_width=0.4 * shape.bold,
            )
    file = BytesIO()
    image.save(file, "PNG", optimize=True)
    return file.getvalue()
