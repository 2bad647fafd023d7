"""Reading, writing and keeping a bank."""
