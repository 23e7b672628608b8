"""Live events: hints between processes (bus), ordering and repair (hub), sockets (connection)."""
