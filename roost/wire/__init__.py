"""What the network touches."""
