"""The Kubernetes manifests: what is generated of them, and whether they hold what no cluster is there to say."""
