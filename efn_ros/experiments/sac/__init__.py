"""Soft actor-critic fine-tuning of the EFN in simulated deployments."""
