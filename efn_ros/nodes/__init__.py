"""The nodes: thin shells over the parts, one file each."""
