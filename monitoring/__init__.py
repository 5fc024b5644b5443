"""What is watched: the Grafana dashboards as tables, and the JSON written from them. Alerts are in k8s/alerts."""
