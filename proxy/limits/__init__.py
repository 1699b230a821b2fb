"""Limit stores: where a subject's admitted requests are remembered. One store a file."""
