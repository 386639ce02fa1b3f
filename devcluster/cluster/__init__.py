"""The development cluster. Python's standard library only: it runs before anything is installed."""
