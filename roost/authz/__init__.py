"""Who is asking, and the one door to state."""
