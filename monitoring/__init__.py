"""Monitoring measures and judges edited models: norms, spectra, probes, retention, verdicts, metrics. It never acts."""
