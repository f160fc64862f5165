"""The load generator: thousands of simulated nodes, each with real handshakes, against a real cluster."""
