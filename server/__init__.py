"""The server side: one strategy for all methods, checkpoints and the ServerApp."""
