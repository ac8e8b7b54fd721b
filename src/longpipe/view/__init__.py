"""Timelines for people: text, one HTML page, Chrome's trace viewer, and a JSON file to keep."""

from longpipe.view.chrome import chrome_trace as chrome_trace
from longpipe.view.compare import compare as compare
from longpipe.view.html import html_page as html_page
from longpipe.view.picture import picture as picture
from longpipe.view.quantity import exact as exact
from longpipe.view.quantity import short as short
from longpipe.view.store import load_timelines as load_timelines
from longpipe.view.store import save_text as save_text
from longpipe.view.store import save_timelines as save_timelines
from longpipe.view.store import timelines_from_json as timelines_from_json
from longpipe.view.store import timelines_to_json as timelines_to_json
