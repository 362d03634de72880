"""Time-outs of collectives in tests: a pool ends a hung case itself, so these only have to be longer."""

from datetime import timedelta

LONG = timedelta(hours=1)
