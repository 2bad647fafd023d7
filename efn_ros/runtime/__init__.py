"""A robot at work in one process: its graph, its parts out of parameters, its agent and its episodes."""
