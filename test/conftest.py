"""A run in the background of a script ignores Ctrl-C, and so would all that the tests start and then end with it."""

import signal

signal.signal(signal.SIGINT, signal.default_int_handler)
