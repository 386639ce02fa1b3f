"""The formats of a bundle, one file each."""
