"""Residuals on the latent action tokens, decoded by the frozen policy."""
