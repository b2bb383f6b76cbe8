"""Versioned policy files that ship with the processor: data, no code. Operators name their own by settings."""
