"""Roost side by side with the limit of its own engine: the same PostgreSQL, driven by pgbench, in the same run."""
