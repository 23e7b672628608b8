"""Programs around the product: the demo, the benchmarks, generated files, probes. Nothing imports them."""
