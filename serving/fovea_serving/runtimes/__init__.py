"""What runs in the pods of each runtime; the gateway asks it through `fovea_serving.upstreams`."""
