"""What collections are read from: files, the Hugging Face hub, ir_datasets; streamed, and checked line by line."""
