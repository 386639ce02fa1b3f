"""Networks: the registry, the architectures, their weights and losses."""
