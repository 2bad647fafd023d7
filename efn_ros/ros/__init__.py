"""What the nodes share: messages to types and back, quality of service, diagnostics, the lifecycle base class."""
