"""Banks to and from the formats of others."""
