"""Published schedules, one self-registering file each; all are pure functions of a Problem."""

from longpipe.schedules._example import example as example
from longpipe.schedules._registry import Entry as Entry
from longpipe.schedules._registry import Option as Option
from longpipe.schedules._registry import build as build
from longpipe.schedules._registry import entries as entries
from longpipe.schedules._registry import entry as entry
from longpipe.schedules._registry import schedule as schedule
