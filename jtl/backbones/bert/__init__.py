"""BERT, RoBERTa and DistilBERT: network, config and names."""
