"""Readers of collections from files, the Hugging Face hub and ir_datasets: streamed, and checked line by line."""
