"""Training of networks: one loop, the data it learns from, and the recipes."""
