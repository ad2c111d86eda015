"""Llama and its relatives (Mistral, Qwen2, Qwen3): network, config and names."""
