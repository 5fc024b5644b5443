"""Removes leashes from pet photos: the application behind the ingress."""

import os

VERSION_VARIABLE = "PAWFECT_VERSION"
"""Set in an image to the commit it was built from; no setting, because nobody chooses it."""
__version__ = os.environ.get(VERSION_VARIABLE) or "0.1.0"

# onnxruntime and the hub's client tell their makers of their use, unless these are there before they are imported.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
