"""Databases that Roost runs on: one PostgreSQL-wire engine, the embedded server, and memory, the reference."""
