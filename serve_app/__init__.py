"""Removes leashes from pet photos: the application behind the ingress."""

__version__ = "0.1.0"
