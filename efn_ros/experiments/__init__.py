"""Methods that have shown no gain yet; each has a page that says what was measured."""
