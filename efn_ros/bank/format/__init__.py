"""What a bank is on the disk: catalogue, payloads, validation and errors."""
