"""The API for clients, one file a noun. Every handler works for the tenant of the token and no other."""
