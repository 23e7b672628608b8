"""HTTP and WebSocket: routes, what stands around handlers, and the handlers."""
