"""Llama and its like (Mistral, Qwen2, Qwen3): network, config and names."""
