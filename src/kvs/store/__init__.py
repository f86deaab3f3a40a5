"""The store: an engine, the order of its changes, its subscriptions, and its data directory."""
