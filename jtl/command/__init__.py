"""The commands for a folder of files or a table of texts: fine-tune, predict, evaluate, export."""
