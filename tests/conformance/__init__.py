"""Tornado's own tests on our wire."""
