"""Removes leashes from pet photos: the application behind the ingress."""

import os

VERSION_VARIABLE = "PAWFECT_VERSION"
"""Set in an image to the commit it was built from; no setting, because nobody chooses it."""
__version__ = os.environ.get(VERSION_VARIABLE) or "0.1.0"
