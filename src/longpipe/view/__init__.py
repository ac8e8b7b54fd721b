"""Timelines for people: text, the viewer's page, pictures, Chrome's traces, and a file to keep."""

from longpipe.view.chrome import chrome_trace as chrome_trace
from longpipe.view.compare import compare as compare
from longpipe.view.drawing import draw as draw
from longpipe.view.html import html_page as html_page
from longpipe.view.panel import Align as Align
from longpipe.view.panel import Panel as Panel
from longpipe.view.panel import of_run as of_run
from longpipe.view.picture import picture as picture
from longpipe.view.png import to_png as to_png
from longpipe.view.quantity import exact as exact
from longpipe.view.quantity import short as short
from longpipe.view.store import load_timelines as load_timelines
from longpipe.view.store import save_bytes as save_bytes
from longpipe.view.store import save_text as save_text
from longpipe.view.store import save_timelines as save_timelines
from longpipe.view.store import timelines_from_json as timelines_from_json
from longpipe.view.store import timelines_to_json as timelines_to_json
from longpipe.view.svg import to_svg as to_svg
