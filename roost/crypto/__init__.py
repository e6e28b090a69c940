"""Keys, and what is signed and sealed with them."""
