"""One file per architecture family; each registers its architectures."""
