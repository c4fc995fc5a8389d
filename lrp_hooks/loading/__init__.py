"""Models and tokenizers from folders, hubs and package indexes."""
