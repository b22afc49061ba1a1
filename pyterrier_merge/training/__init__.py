"""Training of domain models on a collection's own text, and of LoRA adapters on queries with relevant documents."""
