"""The arithmetic of tokens and images that bank and retrieval share."""
