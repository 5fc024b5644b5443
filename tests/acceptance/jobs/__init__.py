"""Tests that share a service with all engines and two ingress replicas."""
