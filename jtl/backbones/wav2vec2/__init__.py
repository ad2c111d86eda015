"""wav2vec 2.0 and HuBERT: network, config and names."""
