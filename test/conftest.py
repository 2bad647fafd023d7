"""For all tests: what a shared machine does to them is no failure of theirs."""

import signal

from hypothesis import settings

# A run in the background of a script ignores Ctrl-C, and so would all that the tests start and then end with it.
signal.signal(signal.SIGINT, signal.default_int_handler)

settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")
