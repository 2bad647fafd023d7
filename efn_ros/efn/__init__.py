"""The Experience Feedback Network (EFN): from the present step and recalled steps to a residual."""
