"""Each indicator is driven over each of its bounds by a real cause, and everybody who judges says the same."""
