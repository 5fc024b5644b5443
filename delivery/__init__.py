"""From a commit to a cluster that serves it: build, deploy, verify, roll back. No import of serve_app."""
