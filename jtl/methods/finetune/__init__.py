"""Supervised training: fine-tuning, and heads on a frozen backbone."""
