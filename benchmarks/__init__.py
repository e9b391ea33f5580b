"""Accuracy and speed against peers and Monte Carlo; each module runs as `python -m benchmarks.NAME`."""
