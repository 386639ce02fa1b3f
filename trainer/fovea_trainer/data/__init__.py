"""From labelled images anywhere to immutable dataset versions, and back to samples for training."""
