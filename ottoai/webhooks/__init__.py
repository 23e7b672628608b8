"""Deliveries of providers: read (one pure module a provider) and received (receive)."""
