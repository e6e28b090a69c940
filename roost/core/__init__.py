"""Pure: what Roost means. No I/O, no clock, no randomness."""
