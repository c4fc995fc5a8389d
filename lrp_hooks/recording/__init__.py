"""What a forward keeps and its backward passes record."""
