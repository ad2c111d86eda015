"""Parameter-efficient fine-tuning: adapters beside a frozen network, merged, saved and loaded."""
