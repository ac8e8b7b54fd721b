"""Timelines for people: text, one HTML page, Chrome's trace viewer, and a JSON file to keep."""

from longpipe.view.picture import picture as picture
