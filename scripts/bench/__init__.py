"""Benchmarks: what the product carries on this machine, beside its goals. They never fail on a time."""
