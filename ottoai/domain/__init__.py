"""What the product is about, as functions over a transaction. Knows no HTTP, Redis, RQ, metrics or logging."""
