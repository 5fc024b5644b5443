"""Tests that share the service as it is shipped."""
