"""Measurements that the documentation quotes: each script writes its JSON to benchmarks/results/."""
