"""Tests that share a service whose logs and traces are looked at."""
