"""SigLIP: network, config and names."""
