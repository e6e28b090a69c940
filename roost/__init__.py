"""Roost: one home for everything an application knows about a user."""
