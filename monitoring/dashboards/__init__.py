"""Grafana's dashboards, written from the metrics."""
