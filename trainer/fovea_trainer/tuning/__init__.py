"""TuningSweep: trials are proposed, trained, compared, stopped or promoted; what is known of them is in the store."""
