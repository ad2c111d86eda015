"""Choosing: which pretrained model to transfer (`ranking`), and which checkpoint without labels (`validators`)."""
